# make alone lists the commands. Each does its own set-up on a fresh machine: Python 3.11+ and make are enough.
PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3.13 python3,$(if $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo yes),$(p))))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
QUIX := $(VENV)/.quix
MOTO := $(VENV)/.moto

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs pins bench bench-crash bench-replay bench-faults bench-gate bench-framed bench-scale bench-scoring bench-variants bench-gpu bench-train bench-addresses bench-stream-addresses bench-model bench-lora bench-swap bench-honesty bench-noise bench-demo bench-review bench-evidence bench-judgement bench-two-records bench-words bench-reviewers bench-starter bench-spoiled bench-channel bench-asking bench-past bench-heads bench-evidence-parts bench-promotion clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

setup: $(READY) ## build .venv with everything pinned by hash

$(READY): requirements.txt requirements-setup.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "winnow needs Python 3.11 or newer on PATH"; exit 2; }
	@echo "setting up $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-setup.txt
	@$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY) ## watch a stream being judged, on a real Kafka, by a model trained in front of you
	@$(BIN)/winnow demo $(ARGS)

# the brokers of tests live for minutes: their Java compiles quickly, not well
test: $(READY) ## all tests, the integration tests on a real Kafka; two at a time, as most of them wait for Kafka
	@OMP_NUM_THREADS=1 JDK_JAVA_OPTIONS=-XX:TieredStopAtLevel=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(READY) ## ruff, mypy, the import law, docs up to date
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m docs.generate --check
	@$(BIN)/python -m deploy.dashboards --check

docs: $(READY) ## write the generated pages and dashboards again
	@$(BIN)/python -m docs.generate
	@$(BIN)/python -m deploy.dashboards

pins: ## resolve the requirements files again, from pyproject.toml and constraints.in, moto's and the last TRL with PPO for the tests and the benchmarks' peers
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --extra dev --extra schemas --extra traces -c constraints.in pyproject.toml -o requirements.txt
	@grep -E '^[a-zA-Z0-9_.-]+==' requirements.txt | sed 's/ *\\$$//' > $(VENV)/pinned.txt
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --extra schemas --extra traces -c $(VENV)/pinned.txt pyproject.toml -o requirements-run.txt
	@printf 'flask\nflask-cors\nmoto[s3]\n' | $(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 - -o requirements-s3-server.txt
	@printf 'trl==1.12.0\n' | $(BIN)/uv pip compile -q --no-deps --universal --generate-hashes --no-header --python-version 3.11 - -o requirements-ppo.txt
	@printf 'onnx\nonnxscript\nonnxruntime\nopenvino\nsentence-transformers\n' | $(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 -c $(VENV)/pinned.txt - -o requirements-peers.txt
	@printf 'quixstreams\n' | $(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 - -o requirements-quix.txt

bench: bench-gate bench-framed bench-scale bench-scoring bench-variants bench-train bench-crash bench-replay bench-faults bench-swap bench-review bench-honesty bench-noise bench-demo bench-model bench-evidence bench-judgement bench-two-records bench-words bench-reviewers bench-starter bench-spoiled bench-channel bench-asking bench-past bench-heads bench-evidence-parts bench-promotion bench-addresses bench-stream-addresses bench-lora ## all slow acceptance runs, one after the other

bench-gate: $(QUIX) ## the gate beside exactly-once copies, its scorer alone, plain loops and quix-streams; latency; memory over 1,000,000 records
	@$(BIN)/python -m bench.gate $(ARGS)

bench-framed: $(READY) ## the gate over the same records as JSON, Avro, Protobuf and JSON Schema
	@$(BIN)/python -m bench.framed $(ARGS)

bench-scale: $(READY) ## one gate to four, records from 20 to 2,000 tokens, a backlog that grows to 1,000,000
	@$(BIN)/python -m bench.scale $(ARGS)

bench-scoring: $(PEERS) ## the scorer beside the two-chat loop, padded batches, CrossEncoder, ONNX Runtime and OpenVINO
	@$(BIN)/python -m bench.scoring $(ARGS)

bench-variants: $(READY) ## the scorer's pass compiled by torch, and its products with weights of eight bits
	@$(BIN)/python -m bench.variants $(ARGS)

bench-gpu: $(READY) ## the scorer on an NVIDIA GPU beside padded batches and CrossEncoder; not part of bench
	@$(BIN)/python -m bench.gpu $(ARGS)

bench-train: $(READY) ## a training step beside stock TRL's on the same pairs
	@$(BIN)/python -m bench.train $(ARGS)

$(PEERS): $(READY) requirements-peers.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements-peers.txt || echo "some peers cannot be installed here; they will be null"
	@touch $(PEERS)

$(QUIX): $(READY) requirements-quix.txt # it needs another confluent-kafka than winnow, so it has a place of its own
	@$(BIN)/uv pip install -q --python $(BIN)/python --target $(VENV)/quix --require-hashes -r requirements-quix.txt || echo "quix-streams cannot be installed here; it will be null"
	@touch $(QUIX)

$(MOTO): $(READY) requirements-s3-server.txt # it needs another python-dateutil than winnow
	@$(BIN)/uv pip install -q --python $(BIN)/python --target $(VENV)/moto --require-hashes -r requirements-s3-server.txt || echo "moto cannot be installed here: no object store for bench-faults"
	@touch $(MOTO)

bench-crash: $(READY) ## 50,000 records, two gates, at least 40 SIGKILLs, nothing lost or repeated
	@$(BIN)/python -m bench.crash

bench-replay: $(READY) ## 100,000 held records replayed, the command killed 3 times: each moved once
	@$(BIN)/python -m bench.replay $(ARGS)

bench-faults: $(MOTO) ## the broker restarted, killed and paused, partitions added, registry, object store and database gone, disk full, the clock set, a slow reader, 1 GB behind: nothing lost
	@$(BIN)/python -m bench.faults $(ARGS)

bench-swap: $(READY) ## 20 hot swaps under load, 5 of them refused: nothing lost, every output names who scored it
	@$(BIN)/python -m bench.swap

bench-review: $(READY) ## the review service killed 30 times under 10 reviewers; the next record among 100,000 open ones
	@$(BIN)/python -m bench.review $(ARGS)

bench-honesty: $(READY) ## 1,000 simulated worlds: certificates hold, intervals cover
	@$(BIN)/python -m bench.honesty

bench-demo: $(READY) ## the whole demo with five seeds: what a round gives on the mean
	@$(BIN)/python -m bench.demo $(ARGS)

bench-noise: $(READY) ## a fifth of 2,000 verdicts turned round: AUROC lost, turned ones found
	@$(BIN)/python -m bench.noise $(ARGS)

bench-evidence: $(READY) ## what a version's memory knows beside its text, on twins and on tables with known truth
	@$(BIN)/python -m bench.evidence $(ARGS)

bench-two-records: $(READY) ## two records repeated 10,000 times: what training on them does
	@$(BIN)/python -m bench.two_records $(ARGS)

bench-words: $(READY) ## starters with other verdict words
	@$(BIN)/python -m bench.words $(ARGS)

bench-judgement: $(READY) ## hospital and flights read as streams, 0, 20, 100 and 300 verdicts, beside other detectors
	@$(BIN)/python -m bench.judgements $(ARGS)

bench-addresses: $(READY) ## real Chinese addresses: starter, 300 verdicts, AUROC
	@$(BIN)/python -m bench.addresses

bench-stream-addresses: $(READY) ## all 18,368 real addresses through producer, starter and gate; ten held ones, and why
	@$(BIN)/python -m bench.stream_addresses $(ARGS)

bench-model: $(READY) ## the model alone on twins it never saw: zero verdicts, 300, other errors, control text
	@$(BIN)/python -m bench.model $(ARGS)

bench-starter: $(READY) ## what each part of a starter gives, and other ways to move its weights
	@$(BIN)/python -m bench.starter_parts $(ARGS)

bench-reviewers: $(READY) ## reviewers who do not err alike: each one's rate, and the ways to learn from what they say
	@$(BIN)/python -m bench.reviewers $(ARGS)

bench-spoiled: $(READY) ## tables with faults drawn by chance: the evidence beside gradient boosting, 20, 100 and 300 verdicts
	@$(BIN)/python -m bench.spoiled $(ARGS)

bench-channel: $(READY) ## corruptions learned from what people called wrong, beside the generic ones
	@$(BIN)/python -m bench.channel $(ARGS)

bench-asking: $(READY) ## whom to ask: ways to choose the records that people answer, evidence alone
	@$(BIN)/python -m bench.asking $(ARGS)

bench-past: $(READY) ## what a twin said before, in the prompt: an experiment, the gate keeps no state
	@$(BIN)/python -m bench.past $(ARGS)

bench-heads: $(READY) ## ensembles of small heads on a frozen trunk beside fine-tuning, by number of verdicts
	@$(BIN)/python -m bench.heads $(ARGS)

bench-evidence-parts: $(READY) ## what each part of the evidence gives, on tables and twins
	@$(BIN)/python -m bench.evidence_parts $(ARGS)

bench-promotion: $(READY) ## how often a better model is promoted, and how often a worse one, with reviewers who err
	@$(BIN)/python -m bench.promotion $(ARGS)

bench-lora: $(READY) ## LoRA on a pre-trained SmolLM2 from a local directory
	@$(BIN)/python -m bench.lora

clean: ## remove what set-up made
	@rm -rf $(VENV) build *.egg-info
