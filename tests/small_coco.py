"""A tiny data set in COCO's format with all that real ones have: crowds, holes in the ids, empty and odd boxes."""

import json

import numpy as np
from PIL import Image

CATEGORIES = {3: "square", 7: "bar", 90: "blob"}
SIZES = ((64, 48), (48, 64), (80, 56), (57, 61))
COLOURS = {3: (220, 40, 40), 7: (40, 200, 60), 90: (60, 60, 230)}


def write_coco(root, counts=(("train", 6), ("val", 3)), *, masks=True):
    """Write images of coloured rectangles and their annotations; return ``root``."""
    generator = np.random.default_rng(0)
    for part, count in counts:
        folder = root / "images" / part
        folder.mkdir(parents=True, exist_ok=True)
        content = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in CATEGORIES.items()]}
        for number in range(count):
            width, height = SIZES[number % len(SIZES)]
            image_id = 100 + 3 * number
            pixels = generator.integers(90, 120, (height, width, 3)).astype(np.uint8)
            entry = {"id": image_id, "file_name": f"{part}{number}.png", "width": width, "height": height}
            content["images"].append(entry)
            # The last image of a part has no objects.
            for category in CATEGORIES if number < count - 1 else ():
                w, h = {3: (20, 20), 7: (30, 10), 90: (14, 18)}[category]
                x, y = int(generator.integers(0, width - w)), int(generator.integers(0, height - h))
                pixels[y : y + h, x : x + w] = COLOURS[category]
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                add(content, image_id, category, [x, y, w, h], [polygon] if masks else [])
            Image.fromarray(pixels).save(folder / entry["file_name"])
        first = content["images"][0]
        add(content, first["id"], 3, [10, 10, 0, 5], [[10, 10, 10, 12, 10, 15]] if masks else [])
        add(content, first["id"], 7, [500, 500, 9, 9], [[500, 500, 509, 500, 509, 509]] if masks else [])
        add(content, first["id"], 3, [0, 0, 8, 4], run_lengths(first, 8, 4), iscrowd=1)
        file = root / "annotations" / f"instances_{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return root


def add(content, image_id, category, box, segmentation, iscrowd=0):
    content["annotations"].append(
        {
            "id": len(content["annotations"]) + 1,
            "image_id": image_id,
            "category_id": category,
            "bbox": [float(value) for value in box],
            "area": float(box[2] * box[3]) * 0.9,
            "iscrowd": iscrowd,
            "segmentation": segmentation,
        }
    )


def run_lengths(image, width, height):
    """Return the upper left ``width × height`` pixels as an uncompressed run-length code: counts down the columns."""
    counts = [0]
    for _ in range(width):
        counts += [height, image["height"] - height]
    counts[-1] += image["height"] * (image["width"] - width)
    return {"size": [image["height"], image["width"]], "counts": counts}
