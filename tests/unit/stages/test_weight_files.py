"""Weight files as other programs write them, and files that are none: read, or named as what they are."""

import argparse
import datetime
import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import hornet  # noqa: F401  registers the models
from finetune.start import fit_weights
from hornet.errors import UserError
from hornet.shards.label_space import LabelSpace, number_classes
from hornet.stages.pretrained import Pretrained, identify_weights, load_weights, read_pretrained


def make_state(fill=None, **arguments):
    """The smallest network's state dict; `fill` sets every number, so that two of them can be told apart."""
    torch.manual_seed(0)
    state = make_model(**arguments).state_dict()
    return state if fill is None else {name: torch.full_like(tensor, fill) for name, tensor in state.items()}


def make_model(**arguments):
    small = {"width": 8, "depths": (1, 1, 1, 1), "img_size": 32, "num_classes": 3}
    return timm.create_model("hornet_atto_gf", **{**small, **arguments})


def save(folder, content, name="x.pth", **arguments):
    torch.save(content, folder / name, **arguments)
    return folder / name


def read(path, weights="raw"):
    return read_pretrained(path, weights=weights, label_space=None)


def refusal(path, weights="raw"):
    with pytest.raises(UserError) as caught:
        read(path, weights)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()  # no terminal codes, no second line
    return str(caught.value)


def assert_equal(state, expected):
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


BESIDE = {
    "original": {"optimizer": {"state": {}, "param_groups": []}, "epoch": 3, "args": argparse.Namespace(lr=4e-3)},
    "numpy": {"best_acc": np.float64(81.0), "loss": np.float32(1.5), "rng": np.random.get_state(legacy=True)},
    "paths": {"output": Path("out"), "when": datetime.datetime(2026, 1, 1), "took": datetime.timedelta(seconds=2)},
    "containers": {"a": defaultdict(list, {"x": [1]}), "b": OrderedDict(y=2), "c": deque([1.0], maxlen=3), "d": {1, 2}},
    "torch": {"version": torch.__version__, "device": torch.device("cpu"), "dtype": torch.float16},
}


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("is_zip", [True, False])
def test_plain_objects_beside_the_tensors_do_not_matter(tmp_path, kind, is_zip):
    state = make_state()
    path = save(tmp_path, {"model": state, **BESIDE[kind]}, _use_new_zipfile_serialization=is_zip)
    assert_equal(read(path).state_dict, state)


def test_another_class_is_refused_by_its_name_and_with_a_way(tmp_path):
    text = refusal(save(tmp_path, {"model": make_state(), "config": zipfile.ZipInfo("x")}))
    assert "'zipfile.ZipInfo'" in text
    assert 'torch.save(model.state_dict(), "weights.pth")' in text
    assert "two options" not in text


class Command:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("function", ["os.system", "builtins.eval", "builtins.exec", "subprocess.call"])
def test_a_file_with_a_command_is_refused_and_not_run(tmp_path, function, is_zip):
    module, name = function.split(".")
    script = f"touch {tmp_path}/ran" if module != "builtins" else f"open({str(tmp_path / 'ran')!r}, 'w')"
    bomb = Command(getattr(__import__(module), name), script)
    text = refusal(save(tmp_path, {"model": make_state(), "args": bomb}, _use_new_zipfile_serialization=is_zip))
    assert name in text
    assert "refused" in text
    assert not (tmp_path / "ran").exists()


def test_what_another_library_allows_is_not_allowed_here(tmp_path):
    path = save(tmp_path, {"model": make_state(), "config": zipfile.ZipInfo("x")})
    with torch.serialization.safe_globals([zipfile.ZipInfo]):
        refusal(path)
        assert zipfile.ZipInfo in torch.serialization.get_safe_globals()


PREFIXES = (
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "backbone.",
    "module.backbone.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_of_wrapped_networks_are_understood(tmp_path, prefix):
    state = make_state()
    path = save(tmp_path, {"state_dict": {prefix + name: tensor for name, tensor in state.items()}})
    assert_equal(read(path).state_dict, state)


def test_names_of_blocks_that_were_compiled_or_sharded_apart_are_understood(tmp_path):
    state = make_state()
    inner = {name.replace("gnconv.", "_orig_mod.gnconv.").replace("norm1.", "_fsdp_wrapped_module.norm1."): tensor
             for name, tensor in state.items()}  # fmt: skip
    assert_equal(read(save(tmp_path, inner)).state_dict, state)


def test_counters_are_left_out_and_told(tmp_path):
    state = make_state()
    counters = {"total_ops": torch.zeros(1), "stages.0.0.total_params": torch.zeros(1), "n_averaged": torch.tensor(5)}
    start = read(save(tmp_path, {"model": state | counters}))
    assert_equal(start.state_dict, state)
    assert "left out: 3 counters (total_ops, total_params, n_averaged)" in start.source


AVERAGES = ("model_ema", "state_dict_ema", "ema", "ema_state_dict")


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("raw", ["model", "state_dict", "module", "model_state_dict"])
def test_raw_and_averaged_weights_of_one_file_are_told_apart(tmp_path, raw, average):
    path = save(tmp_path, {raw: make_state(1.0), average: make_state(2.0)})
    for weights, value, key, other in (("raw", 1.0, raw, average), ("ema", 2.0, average, raw)):
        start = read(path, weights)
        assert all((tensor == value).all() for tensor in start.state_dict.values())
        assert f"{weights} weights under {key!r}" in start.source
        assert f"ones are there too, under {other!r}" in start.source


def test_averages_in_a_wrapper_with_its_decay_are_found(tmp_path):
    wrapped = {"module": {f"module.{name}": tensor for name, tensor in make_state(2.0).items()}, "decay": 0.999}
    start = read(save(tmp_path, {"model": make_state(1.0), "ema": wrapped}), "ema")
    assert_equal(start.state_dict, make_state(2.0))


def test_averages_that_a_file_lacks_are_not_made_up(tmp_path):
    assert "ask for raw ones" in refusal(save(tmp_path, {"model": make_state(), "model_ema": None}), "ema")
    assert "holds averaged weights only (ema); ask for weights=ema" in refusal(save(tmp_path, {"ema": make_state()}))


def test_two_raw_weights_in_one_file_are_refused(tmp_path):
    text = refusal(save(tmp_path, {"model": make_state(1.0), "state_dict": make_state(2.0)}))
    assert "holds weights under model and state_dict; save the ones you mean" in text


def test_the_run_says_which_of_two_weights_it_starts_from(tmp_path):
    start = read(save(tmp_path, {"model": make_state(), "model_ema": make_state(2.0)}))
    report = fit_weights(start, make_model(), label_space=number_classes(3))
    assert report[0].endswith("x.pth (raw weights under 'model', ema ones are there too, under 'model_ema')")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"head.weight": torch.zeros(5, 64, dtype=torch.int8)}, r"no plain floats \(head\.weight torch\.int8"),
        ({"head.weight": torch.zeros(5, 20)}, r"of another shape \(head\.weight \(5, 20\)"),
        ({"head.weight": torch.zeros(5, 64, 1, 1)}, r"of another shape \(head\.weight \(5, 64, 1, 1\)"),
        ({"head.weight": torch.tensor(0.0)}, r"of another shape \(head\.weight \(\)"),
        ({"head.bias": torch.zeros(3)}, r"of another shape \(head\.weight \(5, 64\)"),
    ],
)
def test_a_head_that_is_none_of_this_networks_is_told(head, message):
    """Before its rows are mapped, which would make floats of anything."""
    source = LabelSpace(name="five", classes=tuple("abcde"))
    start = Pretrained(state_dict=make_state(num_classes=5) | head, label_space=source, description={}, source="x.pth")
    with pytest.raises(UserError, match=message):
        fit_weights(start, make_model(num_classes=3), label_space=LabelSpace(name="three", classes=tuple("bcz")))


def make_dense(state):
    """As the original's segmentation saves it: the trunk behind `backbone.`, norms of four outputs, heads beside it."""
    trunk = {f"backbone.{name}": tensor for name, tensor in state.items() if not name.startswith(("norm.", "head."))}
    norms = {
        f"backbone.norm{stage}.{part}": torch.ones(8 * 2**stage) for stage in range(4) for part in ("weight", "bias")
    }
    heads = {"decode_head.conv_seg.weight": torch.ones(150, 8, 1, 1), "auxiliary_head.conv_seg.bias": torch.ones(150)}
    return {"meta": {"CLASSES": ["wall"], "epoch": 1}, "state_dict": trunk | norms | heads, "optimizer": {"state": {}}}


def test_a_dense_checkpoint_of_the_original_starts_a_classifier(tmp_path):
    state = make_state(2.0)
    start = read(save(tmp_path, make_dense(state)))
    assert "norms of the dense outputs (norm0, norm1, norm2, norm3)" in start.source
    assert "2 tensors beside the backbone (decode_head, auxiliary_head)" in start.source
    model = make_model()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith(("norm.", "head."))}
    report = fit_weights(start, model, label_space=number_classes(3))
    assert "norm: a fresh one before the head, since the start is a backbone without" in report
    assert_equal(model.state_dict(), {name: fresh.get(name, tensor) for name, tensor in state.items()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_the_models(tmp_path, dtype):
    state = {name: tensor.to(dtype) for name, tensor in make_state().items()}
    model = make_model()
    load_weights(read(save(tmp_path, state)).state_dict, model, source="x")
    assert_equal(model.state_dict(), {name: tensor.float() for name, tensor in state.items()})


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = make_state()
    state["norm.bias"][3] = float("nan")
    assert "holds NaN or infinity in 1 tensors (norm.bias)" in refusal(save(tmp_path, state))


def test_a_tensor_that_claims_more_than_its_memory_is_refused(tmp_path):
    state = make_state() | {"norm.bias": torch.zeros(1).expand(10**6, 10**6)}
    assert "'norm.bias' is no plain tensor" in refusal(save(tmp_path, state))


def test_quantized_numbers_are_refused():
    state = make_state() | {"norm.bias": torch.zeros(64, dtype=torch.int8)}
    with pytest.raises(UserError, match=r"1 parameters are no plain floats \(norm\.bias torch\.int8\)"):
        load_weights(state, make_model(), source="x")


def test_the_misfit_names_what_is_missing_and_what_is_there():
    state = timm.create_model("convnext_atto", num_classes=3).state_dict()
    with pytest.raises(UserError) as caught:
        load_weights(state, make_model(), source="x")
    assert "parameters are missing (downsample_layers.0.0.weight, " in str(caught.value)
    assert "parameters are unknown (stem.0.weight, " in str(caught.value)


def test_a_misshapen_filter_is_the_users_to_mend():
    state = make_state()
    name = next(name for name in state if name.endswith("complex_weight"))
    with pytest.raises(UserError, match=r"x: does not fit the model: .*complex_weight has shape"):
        load_weights(state | {name: torch.zeros(3, 5, 7)}, make_model(), source="x")


def cut(content, share=0.6):
    return content[: int(len(content) * share)]


def zip_of(*names, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in names:
            archive.writestr(name, b"0" * 100)
    return file.getvalue()


def tar_of(content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("x.pth")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def saved(content, **arguments):
    file = io.BytesIO()
    torch.save(content, file, **arguments)
    return file.getvalue()


FOREIGN = {
    "empty": (b"", "is empty (0 bytes)"),
    "page": (b"<html>denied</html>", "is a web page"),
    "page with a mark": (b"\xef\xbb\xbf\n<!DOCTYPE html>", "is a web page"),
    "answer": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "answer of a server"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n", "git lfs pull"),
    "json": (b'{"message": "Not Found"}', "is a JSON file"),
    "text": (b"sorry\n", "is a text file, not weights (it begins with 'sorry\\n')"),
    "gzip": (gzip.compress(b"x"), "is compressed (gzip); unpack it first"),
    "tar": (tar_of(b"x"), "is a tar archive"),
    "onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x05" + bytes(100), "is an ONNX model"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "npy": (b"\x93NUMPY\x01\x00", "is a NumPy array"),
    "npz": (zip_of("a.npy", "b.npy"), "is a NumPy archive"),
    "zip": (zip_of("x.pth"), "is a zip archive that torch.save did not write"),
    "compressed zip": (zip_of("x/data.pkl", compression=zipfile.ZIP_DEFLATED), "is a compressed zip archive"),
    "script": (zip_of("x/data.pkl", "x/constants.pkl"), "is a TorchScript program"),
    "pickle": (pickle.dumps({"a": 1}, protocol=4), "is a Python pickle that torch.save did not write"),
    "cut zip": (cut(saved({"a": torch.zeros(1000)})), "is cut short or damaged (a zip archive without its end)"),
    "cut old file": (
        cut(saved({"a": torch.zeros(1000)}, _use_new_zipfile_serialization=False)),
        "is cut short or damaged",
    ),
    "zeros": (bytes(100), "is no weight file (it begins with b'\\x00"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is no weight file (it begins with b'\\x89PNG"),
    "cut header": ((5000).to_bytes(8, "little") + b'{"a": {"dtype"', "is cut short: it ends within its header"),
    "cut safetensors": (
        (len(header := b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}')).to_bytes(8, "little")
        + header
        + b"0",
        "is a safetensors file that is cut short or damaged",
    ),
}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_weight_file_is_called_what_it_is(tmp_path, kind, suffix):
    content, sentence = FOREIGN[kind]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    assert sentence in refusal(path)


CONTENTS = {
    "optimizer": ({"state": {}, "param_groups": []}, "an optimizer's state without its weights: 'state' (dict)"),
    "training without weights": ({"optimizer": {}, "epoch": 3}, "an optimizer's state without its weights"),
    "elsewhere": ({"net": {"a": torch.zeros(1)}}, "there are tensors under 'net': if these are the weights"),
    "tensor": (torch.zeros(3), "it is a Tensor"),
    "nothing": ({}, "it is an empty dict"),
    "numbers": ({"epoch": 3, "a": torch.zeros(1)}, "it holds 'epoch' (int), 'a' (Tensor)"),
    "no text": ({3: torch.zeros(1)}, "it holds 3 (Tensor)"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_without_weights_says_what_it_holds(tmp_path, kind):
    content, sentence = CONTENTS[kind]
    assert sentence in refusal(save(tmp_path, content))


def test_a_dict_that_holds_itself_ends(tmp_path):
    content = {"epoch": 3}
    content["model"] = content
    assert "holds no state dict" in refusal(save(tmp_path, content))


def test_the_content_counts_and_not_the_ending(tmp_path):
    state = make_state()
    save_file(state, tmp_path / "x.pth")
    assert_equal(read(tmp_path / "x.pth").state_dict, state)
    assert_equal(read(save(tmp_path, state, "y.safetensors")).state_dict, state)


def test_links_and_pipes_are_named(tmp_path):
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    assert "cannot be read: Too many levels of symbolic links" in refusal(tmp_path / "loop.pth")
    (tmp_path / "dangling.pth").symlink_to("gone.pth")
    assert "does not exist: it is a link to gone.pth" in refusal(tmp_path / "dangling.pth")
    assert refusal(tmp_path / "none.pth").endswith("does not exist")
    os.mkfifo(tmp_path / "pipe.pth")
    assert "is not a regular file" in refusal(tmp_path / "pipe.pth")
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300))


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    path = save(tmp_path, make_state())

    def refuse(*arguments, **keywords):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # root, who runs tests in containers, may read everything
    assert refusal(path) == f"{path} cannot be read: Permission denied"


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("num_parts", [1, 2])
def test_folders_of_weights_are_read(tmp_path, ending, num_parts):
    state = make_state()
    write_folder(tmp_path, state, ending=ending, num_parts=num_parts)
    assert_equal(read(tmp_path).state_dict, state)
    (only,) = tmp_path.glob("*index.json" if num_parts > 1 else "*model*")
    assert_equal(read(only).state_dict, state)


def write_folder(folder, state, *, ending, num_parts):
    stem = "model" if ending == "safetensors" else "pytorch_model"
    write = save_file if ending == "safetensors" else torch.save
    if num_parts == 1:
        write(state, folder / f"{stem}.{ending}")
        return
    owners = {name: f"{stem}-{place % num_parts}.{ending}" for place, name in enumerate(state)}
    for owner in set(owners.values()):
        write({name: state[name] for name in state if owners[name] == owner}, folder / owner)
    write_index(folder, owners)


def write_index(folder, owners):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": owners}))
    for name in ("model", "pytorch_model"):
        if (folder / f"{name}-0.bin").exists():
            (folder / "model.safetensors.index.json").rename(folder / "pytorch_model.bin.index.json")


def test_a_missing_part_is_named(tmp_path):
    write_folder(tmp_path, make_state(), ending="safetensors", num_parts=2)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-1\.safetensors does not exist"):
        read(tmp_path)


def test_a_part_without_a_tensor_of_its_index_is_named(tmp_path):
    write_folder(tmp_path, make_state(), ending="safetensors", num_parts=2)
    write_index(tmp_path, {"norm.weird": "model-0.safetensors"})
    with pytest.raises(UserError, match=r"model-0\.safetensors lacks 'norm\.weird', which model\.safetensors\.index"):
        read(tmp_path)


@pytest.mark.parametrize(
    "owner", ["../x.pth", "/etc/passwd", "a/b", "..", "model.safetensors.index.json", "a\\b", 3, None]
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path, owner):
    write_index(tmp_path, {"a": owner})
    with pytest.raises(UserError, match=r"weight_map must name files beside it|not a regular file"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "[" * 100_000])
def test_an_index_that_is_none_is_named(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="is no index of weights"):
        read(tmp_path)


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path):
    assert "is neither a run with checkpoints nor a checkpoint, and holds none of model.safetensors" in refusal(
        tmp_path
    )
    (tmp_path / ".metadata").touch()
    assert "dcp_to_torch" in refusal(tmp_path)


def test_weights_are_identified_by_their_content(tmp_path):
    one = save(tmp_path, {"a": torch.ones(2)}, "one.pth")
    (tmp_path / "copy.pth").write_bytes(one.read_bytes())
    other = save(tmp_path, {"a": torch.zeros(2)}, "other.pth")
    assert identify_weights(one) == hashlib.sha256(one.read_bytes()).hexdigest()
    assert identify_weights(tmp_path / "copy.pth") == identify_weights(one) != identify_weights(other)


def test_weights_in_parts_are_identified_by_all_of_them(tmp_path):
    parts = {"a": "1.safetensors", "b": "2.safetensors"}
    for name, file in parts.items():
        save_file({name: torch.ones(2)}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    before = identify_weights(tmp_path)
    save_file({"b": torch.zeros(2)}, tmp_path / "2.safetensors")
    assert identify_weights(tmp_path) != before


@pytest.mark.parametrize("wrap", [lambda told: {"architecture": "x", "pretrained_cfg": told}, lambda told: told])
def test_a_folder_of_timms_hub_says_how_its_images_are_normalised(tmp_path, wrap):
    save_file(make_state(), tmp_path / "model.safetensors")
    assert read(tmp_path).description == {}
    (tmp_path / "config.json").write_text(json.dumps(wrap({"mean": [0.5, 0.5, 0.25], "std": [0.5, 0.25, 1]})))
    expected = {"mean": [0.5, 0.5, 0.25], "std": [0.5, 0.25, 1]}
    assert read(tmp_path).description == read(tmp_path / "model.safetensors").description == expected
    save_file(make_state(), tmp_path / "other.safetensors")
    assert read(tmp_path / "other.safetensors").description == {}, "who knows whose it is"


@pytest.mark.parametrize("told", [{"hidden_size": 8}, [], {"mean": [0.5], "std": [0.5] * 3}, {"pretrained_cfg": 3}])
def test_a_config_that_says_nothing_of_normalising_is_passed_over(tmp_path, told):
    save_file(make_state(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert read(tmp_path).description == {}


def test_a_damaged_config_beside_weights_is_named(tmp_path):
    save_file(make_state(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"mean": [0.')
    assert "config.json: is no JSON that can be read (JSONDecodeError)" in refusal(tmp_path)
