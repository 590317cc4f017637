"""The label of an image, by the weights of a run: python examples/classify_an_image.py RUN IMAGE.

RUN is a run directory or a checkpoint folder.
"""

import sys
from pathlib import Path

import timm
import torch
from PIL import Image

from hornet.model.sizes import describe_preprocessing  # as any import of hornet, it registers the models with timm
from hornet.stages.pretrained import read_pretrained


def classify(run: Path, image: Path) -> str:
    """Return the name of the likeliest class."""
    pretrained = read_pretrained(run, weights="raw", label_space=None)
    about, classes = pretrained.description, pretrained.label_space.classes
    size, arguments = about["image_size"], about.get("arguments", {})
    model = timm.create_model(about["model"], num_classes=len(classes), img_size=size, **arguments).eval()
    model.load_state_dict(pretrained.state_dict)
    seen = {**describe_preprocessing(size), "mean": about["mean"], "std": about["std"]}  # cropped as in the paper
    transform = timm.data.create_transform(**timm.data.resolve_data_config(seen))
    with Image.open(image) as opened, torch.no_grad():
        logits = model(transform(opened.convert("RGB"))[None])
    return classes[int(logits.argmax())]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/classify_an_image.py RUN IMAGE")
    print(classify(Path(sys.argv[1]), Path(sys.argv[2])))
