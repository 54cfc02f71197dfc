"""Facts about twelve Chinese cities: area code, postcode prefix, centre, districts.

Divisions as in GB/T 2260; area codes and postcodes as published by the telephone and postal services; centres in
degrees (WGS 84), rounded to 0.01.
"""

from typing import NamedTuple


class City(NamedTuple):
    """One city; `province` is empty for the four municipalities, longitude and latitude are in degrees."""

    province: str
    name: str
    area_code: str
    postcode_prefix: str
    longitude: float
    latitude: float
    districts: tuple[str, ...]


CITIES = tuple(
    City(province, name, area, post, lon, lat, tuple(districts.split()))
    for province, name, area, post, lon, lat, districts in (
        ("", "北京市", "010", "1000", 116.40, 39.90, "朝阳区 海淀区 东城区 西城区 丰台区 石景山区"),
        ("", "上海市", "021", "2000", 121.47, 31.23, "徐汇区 静安区 黄浦区 闵行区 杨浦区 浦东新区"),
        ("", "重庆市", "023", "4000", 106.55, 29.56, "渝中区 江北区 南岸区 沙坪坝区 九龙坡区"),
        ("广东省", "广州市", "020", "5100", 113.26, 23.13, "天河区 越秀区 海珠区 荔湾区 番禺区"),
        ("广东省", "深圳市", "0755", "5180", 114.06, 22.54, "南山区 福田区 罗湖区 宝安区 龙岗区"),
        ("浙江省", "杭州市", "0571", "3100", 120.16, 30.27, "西湖区 上城区 拱墅区 滨江区 余杭区"),
        ("江苏省", "南京市", "025", "2100", 118.80, 32.06, "玄武区 秦淮区 建邺区 栖霞区 雨花台区"),
        ("湖北省", "武汉市", "027", "4300", 114.31, 30.59, "江岸区 江汉区 武昌区 洪山区 汉阳区"),
        ("四川省", "成都市", "028", "6100", 104.07, 30.57, "武侯区 锦江区 青羊区 金牛区 成华区"),
        ("陕西省", "西安市", "029", "7100", 108.94, 34.34, "雁塔区 碑林区 莲湖区 未央区 灞桥区"),
        ("山东省", "青岛市", "0532", "2660", 120.38, 36.07, "市南区 李沧区 崂山区 黄岛区"),
        ("福建省", "厦门市", "0592", "3610", 118.09, 24.48, "思明区 湖里区 集美区 海沧区"),
    )
)
