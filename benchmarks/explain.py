"""Explainers side by side on EfficientNet-Lite0: localisation, faithfulness, seconds and forwards, with peers.

    python benchmarks/explain.py --weights tf_efficientnet_lite0.safetensors --classes DIR --boxes DIR [--images 16]

``--classes`` is a class folder (faithfulness only), ``--boxes`` a folder with meta.jsonl, of which ``boxes_cxcywh`` are
COCO's (class, centre x, centre y, width, height in shares). Peers (pytorch-grad-cam, TorchCAM) run where installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.functional import pil_to_tensor

from everlearn.explainers import EXPLAINERS
from everlearn.metrics.drop import drop_increase_gain
from everlearn.metrics.faithfulness import deletion_auc, insertion_auc, random_maps
from everlearn.metrics.localisation import box_regions, box_share, energy_in_region, pointing_game, top_iou

SIZE = 224
# COCO's class → the classes of ImageNet-1k that are of its kind
IMAGENET = {
    1: (444, 671), 2: (436, 468, 511, 609, 627, 656, 751, 817), 3: (665, 670), 4: (404, 895), 5: (654, 779, 874), 6:
    (466, 547, 705, 820), 7: (555, 569, 675, 717, 864, 867), 8: (472, 484, 554, 576, 625, 814, 914), 9: (920,), 11:
    (919,), 12: (704,), 13: (703,), 14: (*range(7, 25), *range(80, 101), *range(127, 147)), 15: tuple(range(281,
    286)), 16: tuple(range(151, 269)), 17: (339,), 18: (348, 349), 19: (345,), 20: (101, 385, 386), 21: (294, 295,
    296, 297), 22: (340,), 24: (414,), 25: (879,), 27: (457, 906), 30: (795,), 32: (430, 522, 574, 722, 768, 805, 852,
    890), 38: (752,), 39: (440, 737, 898, 907), 40: (572,), 41: (504, 968), 45: (659, 809), 46: (954,), 47: (948,),
    49: (950,), 50: (937,), 52: (934,), 53: (963,), 56: (423, 559, 765), 57: (831,), 58: (738,), 59: (564,), 60:
    (532,), 61: (861,), 62: (664, 851), 63: (620, 681), 64: (673,), 65: (761,), 66: (508,), 67: (487,), 68: (651,),
    70: (859,), 71: (896,), 72: (760,), 74: (409, 892), 75: (883,), 77: (850,),
}  # fmt: skip


class Counter(torch.nn.Module):
    """A model that counts the pictures it sees."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, x):
        self.seen += len(x)
        return self.model(x)


def load_model(weights):
    model = timm.create_model("tf_efficientnet_lite0")
    state = load_file(weights)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval()


def picture(file):
    image = Image.open(file).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return pil_to_tensor(image).float() / 127.5 - 1


def class_pictures(model, folder, count, chunk):
    """Pictures spread over the classes, each with the class that the model predicts."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png") and "test" in p.parts)
    files = files or sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png"))
    x = torch.stack([picture(f) for f in files[:: max(1, len(files) // count)][:count]])
    return x, predict(model, x, chunk).argmax(1), None


def predict(model, x, chunk):
    with torch.no_grad():
        return torch.cat([model(part).softmax(1) for part in x.split(chunk)])


def box_pictures(model, folder, count, chunk):
    """Pictures on which the model sees a class whose boxes are marked (probability over 0.1), and those boxes."""
    rows = [json.loads(line) for line in (folder / "meta.jsonl").read_text().splitlines()]
    rows = [r for r in rows if any(b[0] in IMAGENET for b in r.get("boxes_cxcywh", []))]
    found = []
    for start in range(0, len(rows), chunk):
        if len(found) >= count:
            break
        part = rows[start : start + chunk]
        x = torch.stack([picture(folder / r["file"]) for r in part])
        for picture_x, p, row in zip(x, predict(model, x, chunk), part):
            marked = {int(b[0]) for b in row["boxes_cxcywh"] if b[0] in IMAGENET}
            best, kind = max((float(p[t]), (t, c)) for c in marked for t in IMAGENET[c])
            if best > 0.1:
                corners = [
                    (bx - w / 2, by - h / 2, bx + w / 2, by + h / 2)
                    for c, bx, by, w, h in row["boxes_cxcywh"]
                    if c == kind[1]
                ]
                found.append((picture_x, kind[0], corners))
    found = found[:count]
    regions = box_regions([corners for _, _, corners in found], SIZE, SIZE)
    return torch.stack([x for x, _, _ in found]), torch.tensor([t for _, t, _ in found]), regions


def peers(model, chunk):
    """Name → a call (x [1, …], target) → map [1, 1, H, W]."""
    calls = {}
    try:
        import pytorch_grad_cam as theirs
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        def call(kind):
            cam = getattr(theirs, kind)(model=model, target_layers=[model.conv_head])
            cam.batch_size = chunk

            def run(x, target):
                return torch.from_numpy(cam(x, [ClassifierOutputTarget(int(target))]))[:, None]

            return run

        version = importlib.metadata.version("grad-cam")
        for kind in ("GradCAM", "GradCAMPlusPlus", "LayerCAM", "ScoreCAM"):
            calls[f"pytorch-grad-cam {version} {kind}"] = lambda kind=kind: call(kind)
    except ImportError:
        pass
    try:
        from torchcam import methods

        def torchcam(kind, more):
            def run(x, target):
                with getattr(methods, kind)(model, target_layer="conv_head", **more) as cam:
                    with torch.set_grad_enabled(kind != "ScoreCAM"):
                        scores = model(x)
                    found = cam(int(target), scores)[0]
                return torch.nn.functional.interpolate(found[None], (SIZE, SIZE), mode="bilinear").detach()

            return run

        version = importlib.metadata.version("torchcam")
        for kind, more in (("GradCAM", {}), ("ScoreCAM", {"batch_size": chunk})):
            calls[f"torchcam {version} {kind}"] = lambda kind=kind, more=more: torchcam(kind, more)
    except ImportError:
        pass
    return calls


def measure(model, x, target, regions, maps, args):
    measured = {
        "insertion": insertion_auc(model, x, maps, target, steps=args.steps, chunk=args.chunk),
        "deletion": deletion_auc(model, x, maps, target, steps=args.steps, chunk=args.chunk),
    }
    drop = drop_increase_gain(model, x, maps, target, chunk=args.chunk)
    measured |= {"Drop %": drop.drop, "Incr %": drop.increase}
    if regions is not None:
        measured |= {
            "EBPG": 100 * energy_in_region(maps, regions),
            "mIoU": 100 * top_iou(maps, regions),
            "Bbox": 100 * box_share(maps, regions),
            "pointing": 100 * pointing_game(maps, regions),
        }
    return {name: float(values.nanmean()) for name, values in measured.items()}


def row_of(name, call, model, sets, args):
    row, seconds, forwards = {"method": name}, 0.0, 0
    for title, (x, target, regions) in sets.items():
        maps = []
        for i in range(len(x)):
            model.seen = 0
            start = time.perf_counter()
            maps.append(call(x[i : i + 1], target[i : i + 1]).detach().float())
            seconds += time.perf_counter() - start
            forwards += model.seen
        row |= {f"{title} {k}": v for k, v in measure(model, x, target, regions, torch.cat(maps), args).items()}
    count = sum(len(x) for x, _, _ in sets.values())
    return row | {"seconds": seconds / count, "forwards": forwards / count}


def show(rows):
    names = ["method", *{k: None for row in rows for k in row if k != "method"}]
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
    for row in [names, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _cell(value):
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--classes", type=Path)
    parser.add_argument("--boxes", type=Path)
    parser.add_argument("--images", type=int, default=16, help="of each set")
    parser.add_argument("--methods", nargs="*", help="by default all but token_sampling")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = Counter(load_model(args.weights)).to(memory_format=torch.channels_last).eval()
    sets = {}
    if args.classes:
        sets["classes"] = class_pictures(model, args.classes, args.images, args.chunk)
    if args.boxes:
        sets["boxes"] = box_pictures(model, args.boxes, args.images, args.chunk)
    calls = {}
    for name in args.methods if args.methods is not None else [n for n in EXPLAINERS if n != "token_sampling"]:
        kind, *settings = name.split(":")  # sise:mu=0.3
        calls[name] = EXPLAINERS[kind](
            model, chunk=args.chunk, **{k: float(v) for k, v in (s.split("=") for s in settings)}
        ).attribute
    generator = torch.Generator().manual_seed(args.seed)
    if "grad_cam" in calls:
        smooth = calls["grad_cam"]
        calls["random maps (spectrum of grad_cam)"] = lambda x, t: random_maps(smooth(x, t), generator)
    rows = []
    versions = {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()}
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()}"
    print(
        f"{machine}; {versions}; seed {args.seed}; " + ", ".join(f"{k}: {len(v[0])} pictures" for k, v in sets.items())
    )
    for name, call in calls.items():
        rows.append(row_of(name, call, model, sets, args))
        print(json.dumps(rows[-1]), flush=True)
    if not args.no_peers:
        for name, build in peers(model.model, args.chunk).items():
            plain = build()
            rows.append(row_of(name, plain, model, sets, args) | {"forwards": None})
            print(json.dumps(rows[-1]), flush=True)
    show(rows)
    if args.json:
        head = {"machine": machine, "versions": versions, "seed": args.seed, "images": args.images}
        args.json.write_text(json.dumps(head | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
