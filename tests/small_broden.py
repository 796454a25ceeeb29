"""A small dataset in Broden's layout, written by hand: every trap of the format in four images of 8 x 12 pixels."""

from pathlib import Path

import numpy as np
from pictures import encode, photo
from PIL import Image

MASK_SHAPE = (4, 6)

# Label 7 covers as much in object as in part; 300 needs both colour channels; 5 and 6 are image-level.
TABLES = {
    "index.csv": """image,split,ih,iw,sh,sw,color,object,part,scene
s/a.jpg,train,8,12,4,6,s/a_color.png,s/a_object.png,s/a_part_1.png;s/a_part_2.png,5
s/b.jpg,train,8,12,4,6,s/b_color.png,,,0
t/c.png,val,8,12,4,6,,,,
t/d.webp,val,8,12,4,6,1,t/d_object_1.png;t/d_object_2.png,t/d_part.png,5;6
""",
    "category.csv": """name,first,last,count,frequency
color,1,1,1,2
object,2,7,2,3
part,2,300,3,3
scene,5,6,2,3
""",
    "label.csv": '''number,name,category,frequency,coverage,syns
1,red-c,color(2),2,1.500000,
2,glass,object(2);part(1),2,0.416667,pane;window glass
5,beach-s,scene(2),2,2.000000,
6,night-s,scene(1),1,1.000000,
7,"door, ""oak""",object(1);part(1),2,0.125000,
300,wheel,part(1),1,0.083333,
''',
    "c_color.csv": "code,number,name,frequency,coverage\n1,1,red-c,2,1.500000000000\n",
    "c_object.csv": '''code,number,name,frequency,coverage
1,2,glass,2,0.416666666667
2,7,"door, ""oak""",1,0.125000000000
''',
    "c_part.csv": '''code,number,name,frequency,coverage
1,2,glass,1,0.041666666667
2,7,"door, ""oak""",1,0.125000000000
3,300,wheel,1,0.083333333333
''',
    "c_scene.csv": """code,number,name,frequency,coverage
1,5,beach-s,2,2.000000000000
2,6,night-s,1,1.000000000000
""",
}

PLANES = {
    "s/a_color": ["111111", "111111", "      ", "      "],
    "s/a_object": ["22    ", "22    ", "      ", "      "],
    "s/a_part_1": ["ww    ", "      ", "      ", "      "],
    "s/a_part_2": ["w     ", "2     ", "      ", "      "],
    "s/b_color": ["      "] * 4,
    "t/d_object_1": ["      ", "  2222", "  22  ", "      "],
    "t/d_object_2": ["      ", "      ", "      ", "777   "],
    "t/d_part": ["      ", "      ", "      ", "777   "],
}

_NUMBERS = {" ": 0, "1": 1, "2": 2, "7": 7, "w": 300}


def plane_numbers(name: str) -> np.ndarray:
    """A label plane as (4, 6) numbers."""
    return np.array([[_NUMBERS[character] for character in row] for row in PLANES[name]])


def plane_picture(numbers: np.ndarray) -> Image.Image:
    """A label plane as the picture that the format prescribes."""
    return Image.fromarray(np.dstack((numbers % 256, numbers // 256, 0 * numbers)).astype(np.uint8))


def write_small_broden(root: Path) -> Path:
    """Writes the dataset into a folder; returns it."""
    for folder in ("images/s", "images/t"):
        (root / folder).mkdir(parents=True)
    for name, text in TABLES.items():
        (root / name).write_text(text, encoding="utf-8", newline="")
    for name in PLANES:
        (root / "images" / f"{name}.png").write_bytes(encode(plane_picture(plane_numbers(name)), "PNG"))
    for i, (name, file_format) in enumerate(
        {"s/a.jpg": "JPEG", "s/b.jpg": "JPEG", "t/c.png": "PNG", "t/d.webp": "WEBP"}.items()
    ):
        (root / "images" / name).write_bytes(encode(photo(12, 8, seed=i), file_format))
    return root
