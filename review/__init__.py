"""The page where people answer: records that were held or audited go in, verdicts and releases come out."""
