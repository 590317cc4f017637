"""The stages for webdataset's pipelines: its samples, the promise of our stream, and plain words for what is wrong."""

from __future__ import annotations

import copy
import pickle
import tarfile
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
import webdataset
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st

from hornet.data.config import TransformConfig
from hornet.data.order import Order
from hornet.data.step_loader import SamplePipeline, StepLoader
from hornet.data.webdataset import EvaluationSamples, TrainSamples
from hornet.errors import UserError
from tests.unit.data.test_train_stream import open_stream
from tests.unit.shards.making import flip_bit
from tests.unit.shards.whole_tars import key, keys_of, read_by_webdataset, write_whole_tars

NUM_SAMPLES = 40
GLOBAL_BATCH_SIZE = 8
EPOCH = NUM_SAMPLES // GLOBAL_BATCH_SIZE


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_whole_tars(tmp_path_factory.mktemp("tars"))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("index"))


@pytest.fixture
def open_samples(tars: list[str], index: str) -> Any:
    def open_them(*, rank: int = 0, num_ranks: int = 1, **options: Any) -> TrainSamples:
        values: dict[str, Any] = {"global_batch_size": GLOBAL_BATCH_SIZE, "shuffle_window_shards": 2, "seed": 3}
        return TrainSamples(tars, rank=rank, num_ranks=num_ranks, index=index, **values | options)

    return open_them


def test_samples_are_those_of_webdataset_with_every_member(open_samples, tars):
    ours = sorted(islice(open_samples(), NUM_SAMPLES), key=key)
    assert ours == sorted(read_by_webdataset(tars), key=key)


def test_members_that_webdataset_passes_over_are_passed_over(tmp_path):
    path = tmp_path / "mixed.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in (
            "__meta__",
            "__info__/a.txt",
            "a.jpg",
            "README",
            "a.TXT",
            "b/" + "long" * 60 + ".c.jpg",
            "b/ü.png",
        ):
            (tmp_path / "content").write_bytes(name.encode())
            tar.add(tmp_path / "content", name)
        link = tarfile.TarInfo("d.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        tar.addfile(link)
    theirs = read_by_webdataset([str(path)])
    ours = list(EvaluationSamples(str(path), batch_size=3, rank=0, num_ranks=1, index=str(tmp_path / "index")))
    assert [{name: field for name, field in sample.items() if name != "__is_real__"} for sample in ours] == theirs
    assert len(theirs) == 3


@settings(max_examples=15)
@given(
    num_ranks=st.sampled_from([1, 2, 4, 8]),
    num_micro=st.sampled_from([1, 2]),
    stop=st.integers(0, 2 * EPOCH),
)
def test_the_order_is_the_streams_on_any_ranks_from_any_step(tars, index, num_ranks, num_micro, stop):
    micro = max(1, GLOBAL_BATCH_SIZE // num_ranks // num_micro)
    order = Order(
        shard_lengths=[7, 12, 5, 9, 7],
        seed=3,
        shuffle_window_shards=2,
        global_batch_size=GLOBAL_BATCH_SIZE,
        partial_batch="drop",
    )
    for rank in range(num_ranks):
        source = TrainSamples(
            tars,
            rank=rank,
            num_ranks=num_ranks,
            index=index,
            seed=3,
            shuffle_window_shards=2,
            global_batch_size=GLOBAL_BATCH_SIZE,
            micro_batch_size=micro,
            num_steps=stop + 3,
        )
        source.load_state_dict({"step": stop})
        loader = torch.utils.data.DataLoader(source, batch_size=micro, num_workers=0, collate_fn=keys_of)
        found = [name for batch in loader for name in batch]
        share = GLOBAL_BATCH_SIZE // num_ranks
        picks = [
            sample
            for step in range(stop, stop + 3)
            for sample in order.pick(step=step, start=rank * share, stop=(rank + 1) * share).samples.tolist()
        ]
        by_number = keys_of(read_by_webdataset(tars))
        assert found == [by_number[sample] for sample in picks]


@pytest.mark.slow
def test_batches_come_in_the_same_order_from_worker_processes(open_samples):
    alone = keys_of(islice(open_samples(), 2 * NUM_SAMPLES))
    source = open_samples(micro_batch_size=4)
    loader = torch.utils.data.DataLoader(
        SamplePipeline(source, webdataset.batched(4, collation_fn=keys_of)),
        batch_size=None,
        num_workers=2,
    )
    steps = StepLoader(loader, source)
    assert len(steps) == 2 * EPOCH
    found = [name for epoch in range(2) for batch in steps for name in batch]
    assert found == alone
    assert Counter(Counter(found).values()) == {2: NUM_SAMPLES}


@pytest.mark.slow
def test_workers_that_live_on_begin_where_the_state_says(open_samples):
    alone = keys_of(islice(open_samples(), 2 * NUM_SAMPLES))
    source = open_samples()
    loader = torch.utils.data.DataLoader(
        source, batch_size=8, num_workers=2, persistent_workers=True, collate_fn=keys_of
    )
    steps = StepLoader(loader, source)
    first = list(islice(steps, 2))
    state = steps.state_dict()
    rest = list(islice(steps, 2))  # the same workers go on
    steps.load_state_dict(state)
    assert [*first, *rest] == [alone[start : start + 8] for start in range(0, 32, 8)]
    assert list(steps) == [alone[start : start + 8] for start in range(16, NUM_SAMPLES, 8)]
    assert steps.epoch == 1


@pytest.mark.slow
@pytest.mark.parametrize("take", [copy.deepcopy, lambda source: pickle.loads(pickle.dumps(source))])
def test_workers_of_a_copy_that_live_on_begin_where_its_state_says(open_samples, take):
    alone = keys_of(islice(open_samples(), NUM_SAMPLES))
    source = take(open_samples())
    loader = torch.utils.data.DataLoader(
        source, batch_size=8, num_workers=1, persistent_workers=True, collate_fn=keys_of
    )
    steps = StepLoader(loader, source)
    assert next(iter(steps)) == alone[:8]
    steps.load_state_dict({"step": 3})
    assert next(iter(steps)) == alone[24:32]


def test_torchs_checkpoints_hold_the_state(open_samples, tmp_path):
    def open_them() -> StepLoader:
        source = open_samples()
        return StepLoader(torch.utils.data.DataLoader(source, batch_size=8, collate_fn=keys_of), source)

    steps, again = open_them(), open_them()
    list(islice(steps, 2))
    torch.distributed.checkpoint.save({"loader": steps}, checkpoint_id=str(tmp_path / "checkpoint"), no_dist=True)
    torch.distributed.checkpoint.load({"loader": again}, checkpoint_id=str(tmp_path / "checkpoint"), no_dist=True)
    assert list(again) == list(steps) != []


def test_a_state_of_a_longer_run_has_nothing_left_to_give(open_samples):
    source = open_samples(num_steps=3)
    steps = StepLoader(torch.utils.data.DataLoader(source, batch_size=8, collate_fn=keys_of), source)
    steps.load_state_dict({"step": 4})
    assert list(steps) == []


def test_a_state_is_a_number_and_says_of_what(open_samples):
    state = StepLoader([], open_samples()).state_dict()
    assert {name: type(value) for name, value in state.items()} == {
        "order_version": int,
        "tars": str,
        "seed": int,
        "global_batch_size": int,
        "shuffle_window_shards": int,
        "partial_batch": str,
        "step": int,
        "samples": int,
    }


@settings(max_examples=10)
@given(num_given=st.integers(0, 2 * NUM_SAMPLES))
def test_the_stage_alone_goes_on_at_the_exact_sample(tars, index, num_given):
    def open_them() -> TrainSamples:
        return TrainSamples(tars, global_batch_size=8, rank=0, num_ranks=1, index=index)

    source = open_them()
    iterator = iter(source)
    before = keys_of(islice(iterator, num_given))
    again = open_them()
    again.load_state_dict(source.state_dict())
    assert before + keys_of(islice(again, 20)) == keys_of(islice(open_them(), num_given + 20))


def test_carried_batches_span_epochs_and_leave_nothing_out(tars, index):
    source = TrainSamples(tars, global_batch_size=16, rank=0, num_ranks=1, index=index, partial_batch="carry")
    steps = StepLoader(torch.utils.data.DataLoader(source, batch_size=16, collate_fn=keys_of), source)
    epochs = [list(steps) for _ in range(2)]
    assert [len(epoch) for epoch in epochs] == [3, 2]
    assert Counter(Counter(name for epoch in epochs for batch in epoch for name in batch).values()) == {2: NUM_SAMPLES}


def test_the_order_is_that_of_the_trainer(toy_set, tmp_path):
    stream = open_stream(toy_set, transform=TransformConfig(image_size=8))
    trainer = [name.partition("/")[2] for batch in stream.iterate(0, 8) for name in batch.keys]
    stream.close()
    source = TrainSamples(
        toy_set, global_batch_size=8, seed=5, shuffle_window_shards=2, rank=0, num_ranks=1, index=str(tmp_path)
    )
    found = list(islice(source, 64))
    assert [sample["__key__"] for sample in found] == trainer
    assert {"cls", "json"} <= found[0].keys()


def test_a_damaged_image_is_found_by_the_checksum_of_the_set(toy_set, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for path in toy_set.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with tarfile.open(folder / "toy-00.tar") as tar:
        member = next(member for member in tar if member.name == "s0003.jpg")
    flip_bit(folder / "toy-00.tar", byte=member.offset_data + member.size - 40)
    source = EvaluationSamples(folder, split="train", batch_size=8, rank=0, num_ranks=1, index=str(tmp_path / "i"))
    with pytest.raises(UserError, match=r"toy-00/s0003.jpg: checksum .*damaged bytes; copy the tar again, or give a"):
        list(source)


def test_a_damaged_member_of_any_tar_is_found_where_every_byte_was_read(tmp_path):
    path = write_whole_tars(tmp_path / "tars", (6,))[0]
    options: dict[str, Any] = {
        "batch_size": 6,
        "rank": 0,
        "num_ranks": 1,
        "index": str(tmp_path / "i"),
        "checksums": True,
    }
    assert len(list(EvaluationSamples(path, **options))) == 6
    with tarfile.open(path) as tar:
        member = next(member for member in tar if member.name == "part1/s0004.txt")
    flip_bit(Path(path), byte=member.offset_data)
    with pytest.raises(UserError, match=r"any-00/part1/s0004: checksum [0-9a-f]{8}, the index says [0-9a-f]{8}"):
        list(EvaluationSamples(path, **options))


@pytest.mark.parametrize("num_ranks", [1, 3, 7, 50])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_gives_each_sample_once_and_marks_padding(tars, index, num_ranks, batch_size):
    ranks = [
        list(EvaluationSamples(tars, batch_size=batch_size, rank=rank, num_ranks=num_ranks, index=index))
        for rank in range(num_ranks)
    ]
    assert len({len(samples) for samples in ranks}) == 1
    assert len(ranks[0]) % batch_size == 0
    real = [sample for samples in ranks for sample in samples if sample["__is_real__"]]
    assert sorted(keys_of(real)) == sorted(keys_of(read_by_webdataset(tars)))


def test_stages_of_webdataset_compose_behind_it(open_samples):
    source = open_samples()
    pipeline = webdataset.DataPipeline(
        source,
        webdataset.decode("pil"),
        webdataset.to_tuple("jpg", "json", "txt"),
        webdataset.map_tuple(lambda image: image.size, lambda about: about["number"], str.upper),
        webdataset.batched(4),
    )
    loader = webdataset.WebLoader(pipeline, batch_size=None, num_workers=0)
    sizes, numbers, captions = next(iter(loader))
    assert [tuple(size) for size in sizes] == [(26, 20)] * 4
    assert list(captions) == [f"CAPTION {number}" for number in numbers]


def test_a_sample_without_the_member_ends_it_or_is_replaced_as_the_handler_says(open_samples):
    with pytest.raises(UserError, match=r"sample 'part\d/s\d{4}' has no member \.seg\.png, only .*jpg.*; correct"):
        list(islice(open_samples(require=["jpg;png", "seg.png"]), NUM_SAMPLES))
    with pytest.raises(UserError, match=r"has no member \.seg\.png"):
        list(islice(open_samples(require=["seg.png"], handler=webdataset.reraise_exception), NUM_SAMPLES))
    assert len(list(open_samples(require=["seg.png"], handler=webdataset.ignore_and_stop))) < NUM_SAMPLES
    told: list[str] = []

    def note(error: Exception) -> bool:
        told.append(str(error))
        return True

    found = list(islice(open_samples(require=["seg.png"], handler=note), NUM_SAMPLES))
    assert all("seg.png" in sample for sample in found)
    assert len(told) == NUM_SAMPLES - sum("seg.png" in sample for sample in islice(open_samples(), NUM_SAMPLES))
    again = open_samples(require=["seg.png"], handler=note)
    again.load_state_dict({"step": 2})
    assert keys_of(islice(again, 8)) == keys_of(found[16:24])


def test_no_substitute_is_a_sentence(open_samples):
    with pytest.raises(UserError, match=r"has no member \.avi, .*; none of 16 substitutes can be used either"):
        next(iter(open_samples(require=["avi"], handler=webdataset.ignore_and_continue)))


def test_evaluation_leaves_a_bad_sample_out_and_marks_its_place(tars, index):
    samples = list(
        EvaluationSamples(
            tars,
            batch_size=8,
            rank=0,
            num_ranks=1,
            index=index,
            require=["seg.png"],
            handler=webdataset.ignore_and_continue,
        )
    )
    assert len(samples) == NUM_SAMPLES
    assert sum(sample["__is_real__"] for sample in samples) == NUM_SAMPLES // 4


def test_a_tar_that_changed_is_told_by_its_size(tmp_path):
    paths = write_whole_tars(tmp_path / "tars", (4, 5))
    options: dict[str, Any] = {"global_batch_size": 4, "rank": 0, "num_ranks": 1, "index": str(tmp_path / "i")}
    TrainSamples(paths, **options)
    write_whole_tars(tmp_path / "tars", (4, 6))
    with pytest.raises(UserError, match=r"any-01.tar: has \d+ bytes, the manifest says \d+; it was changed, copy"):
        TrainSamples(paths, **options)


def test_a_tar_of_the_same_size_with_other_samples_is_told_when_it_is_read(tmp_path):
    paths = write_whole_tars(tmp_path / "tars", (4,))
    options: dict[str, Any] = {"batch_size": 4, "rank": 0, "num_ranks": 1, "index": str(tmp_path / "i")}
    EvaluationSamples(paths, **options)
    size = Path(paths[0]).stat().st_size
    write_whole_tars(tmp_path / "tars", (4,), first=1)
    content = Path(paths[0]).read_bytes()
    Path(paths[0]).write_bytes(content[:size] + bytes(max(0, size - len(content))))
    with pytest.raises(UserError, match=r"any-00/@\d+: .*(other members here than when it was indexed|tar ends)"):
        list(EvaluationSamples(paths, **options))


def test_what_does_not_divide_is_told(open_samples):
    with pytest.raises(UserError, match=r"global_batch_size 8 cannot be divided over 3 ranks; world sizes that"):
        open_samples(num_ranks=3)
    with pytest.raises(UserError, match=r"not a multiple of micro_batch_size 3"):
        open_samples(micro_batch_size=3)
    with pytest.raises(UserError, match=r"the loader makes batches of 4, the source was given micro_batch_size 8"):
        StepLoader(torch.utils.data.DataLoader(open_samples(), batch_size=4), open_samples())


def test_batches_of_another_size_are_told_wherever_they_are_made(open_samples):
    source = open_samples(micro_batch_size=4)
    keys, eight = webdataset.to_tuple("__key__"), webdataset.batched(8)
    loaders = [
        webdataset.DataPipeline(source, keys, eight),
        torch.utils.data.DataLoader(SamplePipeline(source, keys, eight), batch_size=None),
        torch.utils.data.DataLoader(SamplePipeline(source, keys, webdataset.batched(4)), batch_size=2),
        webdataset.WebLoader(webdataset.DataPipeline(source, keys), batch_size=None).batched(8),
        webdataset.WebLoader(webdataset.DataPipeline(source, keys, webdataset.batched(4)), batch_size=2),
    ]
    for loader in loaders:
        with pytest.raises(UserError, match=r"^batch_size: the loader makes batches of 8, the source was given micro"):
            StepLoader(loader, source)
    again = webdataset.WebLoader(webdataset.DataPipeline(source, keys, eight), batch_size=None).unbatched().batched(4)
    StepLoader(again, source)
    with pytest.raises(UserError, match=r"makes batches of 20, the source"):  # webdataset's default
        StepLoader(webdataset.DataPipeline(source, webdataset.batched()), source)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_of_what_several_workers_hand_over_are_refused(open_samples, num_workers):
    source = open_samples(micro_batch_size=4)
    eights = webdataset.DataPipeline(source, webdataset.to_tuple("__key__"), webdataset.batched(8))
    loaders = [
        webdataset.WebLoader(source, batch_size=None, num_workers=num_workers).batched(4),
        webdataset.WebLoader(eights, batch_size=None, num_workers=num_workers).unbatched().batched(4),
    ]
    for loader, handed in zip(loaders, (1, 8), strict=True):
        if num_workers < 2:  # in the order of the stream
            StepLoader(loader, source)
            continue
        with pytest.raises(
            UserError, match=rf"whose workers hand over {handed} at a time .*; batch within the workers"
        ):
            StepLoader(loader, source)
    again = webdataset.WebLoader(source, batch_size=4, num_workers=num_workers, collate_fn=list)
    StepLoader(again.unbatched().batched(4), source)


def test_a_state_that_a_stage_would_make_wrong_is_refused(open_samples):
    source = open_samples()
    batches = SamplePipeline(source, webdataset.to_tuple("__key__"), webdataset.batched(8))
    next(iter(batches))
    with pytest.raises(UserError, match=r"^batched: gives a batch when it has the sample behind it, which a state"):
        batches.state_dict()
    assert SamplePipeline(source, webdataset.to_tuple("__key__")).state_dict()["step"] == 1


def test_a_state_of_another_stream_is_refused(open_samples, tmp_path):
    state = open_samples().state_dict()
    with pytest.raises(UserError, match=r"seed: the state was saved with 3, this stream has 4, so its batches"):
        open_samples(seed=4).load_state_dict(state)
    other = TrainSamples(
        write_whole_tars(tmp_path / "tars"),
        global_batch_size=8,
        seed=3,
        shuffle_window_shards=2,
        rank=0,
        num_ranks=1,
        index=str(tmp_path / "index"),
    )
    other.load_state_dict(state)  # a copy elsewhere is the same set
    within = open_samples()
    list(islice(iterator := iter(within), 5))
    with pytest.raises(UserError, match=r"5 samples into a rank's share, which is 4 here; save between steps"):
        open_samples(num_ranks=2).load_state_dict(within.state_dict())
    del iterator


def test_two_samplers_on_top_of_each_other_are_refused(open_samples):
    for stage, name in ((webdataset.shuffle(100), "shuffle"), (webdataset.split_by_node, "split_by_node")):
        with pytest.raises(UserError, match=rf"^{name}: two samplers on top of each other; .* leave this stage out"):
            SamplePipeline(open_samples(), stage)


def test_samplers_within_webdatasets_own_pipelines_are_refused_too(open_samples):
    source = open_samples()
    within = webdataset.DataPipeline(source, webdataset.shuffle(100))
    plain = webdataset.DataPipeline(source, webdataset.decode("pil"))
    for loader in (
        within,
        webdataset.WebLoader(within, batch_size=None),
        torch.utils.data.DataLoader(within, batch_size=8),
        webdataset.WebLoader(plain, batch_size=None).shuffle(100),
    ):
        with pytest.raises(UserError, match=r"^shuffle: two samplers on top of each other; .* leave this stage out"):
            StepLoader(loader, source)
    StepLoader(webdataset.WebLoader(plain, batch_size=None), source)


SHARD, DISPATCH = {"num_processes": 2}, {"dispatch_batches": True, "put_on_device": True}


@pytest.mark.parametrize(
    ("options", "workers"),
    [
        (SHARD, {}),
        (DISPATCH, {}),
        pytest.param(SHARD, {"num_workers": 1}, marks=pytest.mark.slow),
        pytest.param(DISPATCH, {"num_workers": 1, "multiprocessing_context": "spawn"}, marks=pytest.mark.slow),
    ],
)
def test_a_loader_that_accelerate_would_divide_again_is_refused(tars, index, options, workers):
    def prepare(dataset: Any) -> Any:
        loader = torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=keys_of, **workers)
        return prepare_data_loader(loader, device=torch.device("cpu"), process_index=0, **options)

    world: dict[str, Any] = {"rank": 0, "num_ranks": 2, "index": index}
    for source, instead in (
        (SamplePipeline(TrainSamples(tars, global_batch_size=8, **world)), r"StepLoader\(loader, source\)"),
        (EvaluationSamples(tars, batch_size=4, **world), "iterate over the loader itself"),
    ):
        said = rf"two samplers on top of each other: Accelerate's prepare .* again; .*{instead}"
        with pytest.raises(UserError, match=said):
            next(iter(prepare(source)))


def test_a_source_that_is_undivided_may_be_divided_by_accelerate(open_samples):
    loader = torch.utils.data.DataLoader(open_samples(num_steps=2), batch_size=4, collate_fn=list)
    keys = [keys_of(batch) for batch in prepare_data_loader(loader, num_processes=2, process_index=1)]
    alone = keys_of(islice(open_samples(), 16))
    assert keys == [alone[4:8], alone[12:16]]


def test_an_error_is_told_again_and_the_step_is_kept(open_samples):
    source = open_samples(require=["seg.png"])
    steps = StepLoader(torch.utils.data.DataLoader(source, batch_size=8, collate_fn=keys_of), source)
    for _ in range(2):
        with pytest.raises(UserError, match=r"has no member \.seg\.png"):
            next(iter(steps))
    assert steps.step == 0


def test_samples_that_have_no_steps_are_refused(tars, index):
    source: Any = EvaluationSamples(tars, batch_size=4, rank=0, num_ranks=1, index=index)
    with pytest.raises(UserError, match=r"^source: is a EvaluationSamples, but must be the TrainSamples that the"):
        StepLoader(torch.utils.data.DataLoader(source, batch_size=4), source)


def test_a_loader_that_hands_over_what_is_ready_first_is_refused(open_samples):
    source = open_samples()
    loader = torch.utils.data.DataLoader(source, batch_size=8, num_workers=2, in_order=False)
    for one in (loader, webdataset.DataPipeline(loader)):
        with pytest.raises(UserError, match=r"^in_order: is False, so batches would come as workers finish them"):
            StepLoader(one, source)


def test_a_stage_that_ends_the_loader_is_told(open_samples):
    source = open_samples()
    stages = webdataset.to_tuple("__key__"), webdataset.batched(8)
    loader = webdataset.WebLoader(webdataset.DataPipeline(source, *stages), batch_size=None)
    with pytest.raises(UserError, match=r"the loader ended before step 3: .* or ends it \(with_epoch\); .*num_steps="):
        list(StepLoader(loader.with_epoch(3), source))


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        (webdataset.select(lambda sample: "cls" in sample), "select: may drop samples, and"),
        (
            webdataset.decode("pil", handler=webdataset.warn_and_continue),
            "decode: may drop .* handler warn_and_continue",
        ),
        (webdataset.map(len, handler=lambda error: True), "map: may drop samples by its handler <lambda>"),
    ],
)
def test_a_stage_of_webdatasets_that_may_drop_samples_is_refused(open_samples, stage, told):
    """An endless source would go on, its batches a sample later than the step says."""
    source = open_samples()
    with pytest.raises(UserError, match=rf"^{told}"):
        StepLoader(webdataset.WebLoader(SamplePipeline(source, stage, webdataset.batched(8)), batch_size=None), source)


def test_a_stage_that_drops_samples_is_told(open_samples):
    source = open_samples(num_steps=3)
    choose = lambda samples: (sample for sample in samples if "cls" in sample)  # noqa: E731
    pipeline = SamplePipeline(source, choose, webdataset.batched(8, partial=False))
    with pytest.raises(UserError, match=r"the loader ended before step \d: a stage or handler behind the source"):
        list(StepLoader(webdataset.WebLoader(pipeline, batch_size=None), source))


def test_ranks_are_asked_for_where_only_torch_knows_them(open_samples, monkeypatch):
    with pytest.raises(UserError, match=r"rank and num_ranks: give both, or neither"):
        open_samples(rank=0, num_ranks=None)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match=r"torch.distributed has 2 ranks, the launcher's environment says 1, so"):
        open_samples(rank=None, num_ranks=None)


def test_ranks_that_meet_after_the_tars_were_opened_are_told(open_samples, monkeypatch):
    source, told = open_samples(rank=None, num_ranks=None), open_samples(rank=0, num_ranks=1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match=r"torch.distributed has 2 ranks, the launcher's environment says 1, so"):
        next(iter(source))
    assert next(iter(told))
