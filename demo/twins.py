"""A seeded stream of digital twins of companies, people and sites, with known truth.

Leaves: keys and values as a producer would write them, and beside them, never inside them, the truth. Each twin is
consistent with itself: area code, postcode, coordinates and district belong to its city.
"""

import itertools
import json
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from demo.cities import CITIES, City
from demo.errors import ERRORS, LATER_ERRORS, Fields, unreadable_bytes

WRONG_SHARE = 0.12
UNREADABLE_SHARE = 0.01
UNREADABLE = "unreadable"
RIGHT = "right"

_ROADS = (
    "中山路 解放路 人民路 建设路 和平路 文化路 新华路 长江路 黄河路 友谊路 胜利路 光明路 振兴路 学院路 科技路 创业路 "
    "滨河路 湖滨路 迎宾路 体育路 青年路 团结路 北环路 南湖路 东风路 西湖大道 世纪大道 高新大道 金融街 软件园路"
).split()
_BUILDINGS = "国际大厦 科技大厦 商务中心 创业园 金融中心 软件园 广场 写字楼 产业园 花园".split()
_TRADES = "科技 贸易 电子 机械 物流 软件 生物 环保 建材 食品 文化传媒 信息技术 自动化 新能源".split()
_WORDS = "华 鑫 瑞 恒 盛 达 通 联 创 博 宏 泰 嘉 信 立 远 东 方 天 和 中 金 安 诚 海 源 新 星 云 智".split()
_SURNAMES = "王 李 张 刘 陈 杨 赵 黄 周 吴 徐 孙 胡 朱 高 林 何 郭 马 罗 梁 宋 郑 谢 韩 唐 冯 于 董 萧".split()
_GIVEN = "伟 芳 娜 敏 静 丽 强 磊 军 洋 勇 艳 杰 娟 涛 明 超 秀兰 霞 平 刚 桂英 建华 志强 雪梅 海燕 国庆 文静 晓东 玉珍".split()
_PLANTS = "泵站 变电站 监测站 水厂 换热站 充电站 气象站 污水处理厂".split()
_NUMBERS = ("longitude", "latitude", "temperature", "humidity")
_MOBILE_PREFIXES = "130 131 135 136 137 138 139 150 151 158 159 177 180 186 187 188 189".split()

_PLACE = ("longitude", "latitude")
_TEXT_FORMS = {
    "name": "{}",
    "address": "{}",
    "postcode": "邮编:{}",
    "phone": "联系电话:{}",
    "temperature": "温度:{}℃",
    "humidity": "湿度:{}%",
}


class Truth(NamedTuple):
    """What is so about a record: `right`, `unreadable`, or an error kind and the fields it sits in."""

    kind: str
    fields: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """The first field it sits in."""
        return self.fields[0] if self.fields else ""

    @property
    def is_wrong(self) -> bool:
        """Whether a reviewer who knows the truth answers 错误."""
        return self.kind not in (RIGHT, UNREADABLE)


class Twin(NamedTuple):
    """One record to produce, and its truth, which never travels with it."""

    key: bytes
    value: bytes
    truth: Truth


def stream(
    seed: int,
    kinds: tuple[str, ...] | None = None,
    wrong_share: float = WRONG_SHARE,
    unreadable_share: float = UNREADABLE_SHARE,
) -> Iterator[Twin]:
    """Yield records for ever; the same seed gives the same stream. `kinds` names the error kinds (default: all of
    ERRORS).
    """
    random = Random(seed)
    chosen = tuple(kinds or ERRORS)
    population = [_twin(random) for _ in range(2_000)]
    while True:
        number = random.randrange(len(population))
        fields = _with_readings(random, population[number])
        is_json = random.random() < 0.6
        draw = random.random()
        key = f"T{number:05d}".encode()
        if draw < unreadable_share:
            yield Twin(key, unreadable_bytes(random, _as_bytes(fields, is_json)), Truth(UNREADABLE))
        elif draw < unreadable_share + wrong_share:
            kind = random.choice(chosen)
            broken, names = (ERRORS | LATER_ERRORS)[kind](random, dict(fields))
            yield Twin(key, _as_bytes(broken, is_json), Truth(kind, names))
        else:
            yield Twin(key, _as_bytes(fields, is_json), Truth(RIGHT))


def take(count: int, seed: int, **options: object) -> list[Twin]:
    """Return the first `count` records of `stream`."""
    return list(itertools.islice(stream(seed, **options), count))  # type: ignore[arg-type]


def _twin(random: Random) -> Fields:
    city = random.choice(CITIES)
    make = random.choice((_company, _person, _site))
    address = f"{city.province}{city.name}{random.choice(city.districts)}{random.choice(_ROADS)}{random.randint(1, 999)}号"
    if random.random() < 0.6:
        address += f"{random.choice(_WORDS)}{random.choice(_WORDS)}{random.choice(_BUILDINGS)}"
        address += random.choice((f"{random.randint(1, 30)}楼", f"{random.choice('ABCD')}座{random.randint(101, 2899)}室"))
    fields: Fields = {**make(random, city), "address": address}
    fields["postcode"] = f"{city.postcode_prefix}{random.randint(0, 99):02d}"
    fields["phone"] = _phone(random, city, is_person=make is _person)
    fields["longitude"] = f"{city.longitude + random.uniform(-0.15, 0.15):.3f}"
    fields["latitude"] = f"{city.latitude + random.uniform(-0.12, 0.12):.3f}"
    return fields


def _company(random: Random, city: City) -> Fields:
    words = "".join(random.sample(_WORDS, 2))
    return {"name": f"{city.name.removesuffix('市')}{words}{random.choice(_TRADES)}有限公司"}


def _person(random: Random, _city: City) -> Fields:
    return {"name": random.choice(_SURNAMES) + random.choice(_GIVEN)}


def _site(random: Random, city: City) -> Fields:
    return {"name": f"{city.name.removesuffix('市')}{random.choice(_WORDS)}{random.choice(_WORDS)}{random.choice(_PLANTS)}"}


def _phone(random: Random, city: City, *, is_person: bool) -> str:
    if is_person:
        return random.choice(_MOBILE_PREFIXES) + f"{random.randint(0, 99_999_999):08d}"
    return f"{city.area_code}-{random.randint(2, 8)}{random.randint(0, 9_999_999):07d}"


def _with_readings(random: Random, twin: Fields) -> Fields:
    return twin | {"temperature": f"{random.uniform(-5, 38):.1f}", "humidity": f"{random.uniform(20, 95):.0f}"}


def _as_bytes(fields: Fields, is_json: bool) -> bytes:
    if is_json:
        shown = {name: _as_number(value) if name in _NUMBERS else value for name, value in fields.items()}
        return json.dumps(shown, ensure_ascii=False).encode()
    parts = [form.format(fields[name]) for name, form in _TEXT_FORMS.items() if fields.get(name)]
    parts.insert(-2, f"坐标:{fields['longitude']} {fields['latitude']}")
    return ",".join(parts).encode()


def wrong_paths(truth: Truth, value: bytes) -> set[str]:
    """Return the paths by which a gate may name the wrong fields of a record; empty where all of them are missing from it."""
    names = set(truth.fields)
    if value.startswith(b"{"):
        return names & set(json.loads(value))
    labels = {name: form.partition(":")[0] for name, form in _TEXT_FORMS.items() if ":" in form} | dict.fromkeys(_PLACE, "坐标")
    found = {labels[name] for name in names if name in labels and f"{labels[name]}:".encode() in value}
    unlabelled = [part for part in value.decode().split(",") if ":" not in part]
    return found | {f"part {at}" for at, name in enumerate(("name", "address"), 1) if name in names and len(unlabelled) > 1}


def _as_number(value: str) -> float | int | str:
    if not value.strip("-").replace(".", "", 1).isdecimal():
        return value
    return float(value) if "." in value else int(value)
