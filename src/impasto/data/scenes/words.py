"""The words of the captions, English and Chinese: what the grammar says and what the parser understands.

In every tuple of forms the first is the usual one. Forms under ``*_ALSO`` are understood but never produced.
"""

from __future__ import annotations

Forms = tuple[str, ...]

ENGLISH_COLOURS: dict[str, Forms] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
}
ENGLISH_BACKGROUNDS: dict[str, Forms] = {
    "white": ("white",),
    "gray": ("gray", "grey"),
    "black": ("black",),
    "beige": ("beige", "cream"),
}
ENGLISH_SHAPES: dict[str, tuple[tuple[str, str], ...]] = {  # (singular, plural)
    "circle": (("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "diamond": (("diamond", "diamonds"), ("rhombus", "rhombuses")),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "star": (("star", "stars"), ("five-pointed star", "five-pointed stars")),
    "heart": (("heart", "hearts"),),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
}
ENGLISH_SHAPE_ADJECTIVES: dict[str, Forms] = {
    "circle": ("circular", "round"),
    "square": ("square",),
    "triangle": ("triangular",),
    "diamond": ("diamond-shaped",),
    "cross": ("cross-shaped",),
    "star": ("star-shaped",),
    "heart": ("heart-shaped",),
    "ring": ("ring-shaped",),
}
ENGLISH_OBJECTS = (("object", "objects"), ("figure", "figures"))
ENGLISH_OBJECTS_ALSO = (("shape", "shapes"), ("thing", "things"), ("item", "items"))
ENGLISH_SIZES: dict[str, Forms] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium-sized", "medium", "mid-sized"),
    "large": ("large", "big", "huge"),
}
ENGLISH_TEXTURES: dict[str, Forms] = {
    "solid": ("solid", "plain"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted", "polka-dot"),
    "checkered": ("checkered", "checked", "chequered"),
}
ENGLISH_TEXTURE_ENDINGS: dict[str, Forms] = {
    "solid": ("without a pattern",),
    "striped": ("with stripes", "covered in stripes"),
    "dotted": ("with dots", "covered in dots", "with spots"),
    "checkered": ("with checks", "with a checkered pattern"),
}
ENGLISH_NUMBERS: dict[int, Forms] = {
    1: ("one",),
    2: ("two", "2", "a pair of"),
    3: ("three", "3"),
    4: ("four", "4"),
}
ENGLISH_NUMBERS_ALSO: dict[int, Forms] = {1: ("1", "a single"), 2: ("a couple of",)}
ENGLISH_RELATIONS: dict[str, Forms] = {
    "left of": ("to the left of", "left of", "on the left of", "on the left side of"),
    "right of": ("to the right of", "right of", "on the right of", "on the right side of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath", "underneath", "lower than"),
    "touching": ("touching", "in contact with"),
    "inside": ("inside", "within", "contained in", "enclosed by"),
}
ENGLISH_RELATIONS_ALSO: dict[str, Forms] = {
    "left of": ("at the left of", "to left of"),
    "right of": ("at the right of", "to right of"),
    "above": ("on top of", "on the top of"),
    "below": ("at the bottom of", "on the bottom of"),
    "touching": ("touches", "touch", "next to and touching", "that touches"),
    "inside": ("inside of", "surrounded by", "in the middle of"),
}
ENGLISH_ASIDES: dict[str, Forms] = {  # "B with A <to its left>"
    "left of": ("to its left", "on its left"),
    "right of": ("to its right", "on its right"),
    "above": ("above it", "over it"),
    "below": ("below it", "beneath it", "under it"),
    "touching": ("touching it",),
    "inside": ("inside it", "within it"),
}
ENGLISH_MUTUAL = ("touching each other", "in contact with each other", "that touch each other")
ENGLISH_MUTUAL_ALSO = (
    "touch each other",
    "that are touching",
    "which are touching",
    "in contact",
    "touching one another",
)
ENGLISH_HOLDS = ("containing", "contains", "surrounding", "enclosing")
ENGLISH_HOLDS_ALSO = ("that contains", "which contains", "holding", "around", "surrounds", "encloses")
ENGLISH_OPENINGS = ("a picture of", "an image of", "a drawing of")
ENGLISH_OPENINGS_ALSO = (
    "a photo of",
    "a painting of",
    "picture of",
    "image of",
    "drawing of",
    "the picture shows",
)

CHINESE_COLOURS: dict[str, Forms] = {
    "red": ("红色", "红"),
    "orange": ("橙色", "橘色"),
    "yellow": ("黄色", "黄"),
    "green": ("绿色", "绿"),
    "cyan": ("青色",),
    "blue": ("蓝色", "蓝"),
    "purple": ("紫色", "紫"),
    "pink": ("粉色", "粉红色"),
}
CHINESE_COLOURS_ALSO: dict[str, Forms] = {
    "orange": ("橙", "橘黄色"),
    "cyan": ("青", "青绿色"),
    "pink": ("粉", "粉红"),
}
CHINESE_BACKGROUNDS: dict[str, Forms] = {
    "white": ("白色", "纯白色"),
    "gray": ("灰色",),
    "black": ("黑色", "纯黑色"),
    "beige": ("米色", "米黄色"),
}
CHINESE_BACKGROUNDS_ALSO: dict[str, Forms] = {"white": ("白",), "gray": ("灰",), "black": ("黑",)}
CHINESE_SHAPES: dict[str, Forms] = {
    "circle": ("圆形", "圆"),
    "square": ("正方形", "方块"),
    "triangle": ("三角形",),
    "diamond": ("菱形",),
    "cross": ("十字形", "十字"),
    "star": ("星形", "五角星", "星星"),
    "heart": ("心形", "爱心"),
    "ring": ("圆环", "环形"),
}
CHINESE_SHAPES_ALSO: dict[str, Forms] = {
    "circle": ("圆圈", "圆盘"),
    "square": ("方形",),
    "triangle": ("三角",),
    "cross": ("加号",),
    "star": ("星",),
    "heart": ("心",),
    "ring": ("环",),
}
CHINESE_SHAPE_ADJECTIVES: dict[str, str] = {
    "circle": "圆形",
    "square": "方形",
    "triangle": "三角形",
    "diamond": "菱形",
    "cross": "十字形",
    "star": "星形",
    "heart": "心形",
    "ring": "环形",
}
CHINESE_OBJECTS = ("图形", "物体")
CHINESE_OBJECTS_ALSO = ("东西", "形状")
CHINESE_SIZES: dict[str, Forms] = {
    "small": ("小", "小号的", "小小的"),
    "medium": ("中等大小的", "中号的"),
    "large": ("大", "大号的", "大大的"),
}
CHINESE_SIZES_ALSO: dict[str, Forms] = {"medium": ("中等",), "large": ("巨大的",)}
CHINESE_TEXTURES: dict[str, Forms] = {
    "solid": ("纯色的", "没有花纹的"),
    "striped": ("条纹", "带条纹的", "有条纹的"),
    "dotted": ("圆点", "带圆点的", "波点"),
    "checkered": ("格子", "带格子的", "棋盘格"),
}
CHINESE_NUMBERS: dict[int, Forms] = {1: ("一个",), 2: ("两个", "2个"), 3: ("三个", "3个"), 4: ("四个", "4个")}
CHINESE_NUMBERS_ALSO: dict[int, Forms] = {
    1: ("1个", "一颗", "一枚", "一只"),
    2: ("二个", "两颗", "一对"),
    3: ("三颗",),
    4: ("四颗",),
}
CHINESE_PLACES: dict[str, Forms] = {
    "left of": ("左边", "左侧", "左面", "左方"),
    "right of": ("右边", "右侧", "右面", "右方"),
    "above": ("上方", "上面", "上边"),
    "below": ("下方", "下面", "下边"),
    "inside": ("里面", "内部", "之内"),
}
CHINESE_PLACES_ALSO: dict[str, Forms] = {
    "inside": ("里", "中间", "里边"),
    "above": ("之上",),
    "below": ("之下",),
}
CHINESE_TOUCHES = ("接触", "碰着", "紧贴着")
CHINESE_TOUCHES_ALSO = ("接触着", "碰到", "挨着", "紧贴", "接触到")
CHINESE_MUTUAL = ("相互接触", "挨在一起", "紧贴在一起")
CHINESE_MUTUAL_ALSO = ("互相接触", "碰在一起", "接触在一起")
CHINESE_HOLDS = ("包含", "包围着", "里面装着")
CHINESE_HOLDS_ALSO = ("包含着", "包着", "围着", "包围", "装着")
CHINESE_OPENINGS = ("图中有", "画面上有", "一幅画：", "这里有")
CHINESE_OPENINGS_ALSO = ("图片中有", "图片：", "一张图片：", "画着", "画面中有")
