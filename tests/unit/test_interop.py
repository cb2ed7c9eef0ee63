import io
import json
import pickle
import tarfile
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from unit_factories import model_identity, sampler_identity, small_schedule, tiny_dit

from l2c_ray.errors import CheckpointError, InvalidInputError, ScheduleError, StorageError
from l2c_ray.interop import cache_dit, l2c_router, smoothcache
from l2c_ray.interop.formats import recognise
from l2c_ray.models.uvit import UViTShape, build
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Mask, Table

UNITS = 4
DIT = tiny_dit()
UVIT = build(UViTShape(2, 8, 2, image_size=4, channels=1, patch_size=2, num_classes=3), "tiny")


def rows(steps: int, units: int = UNITS, **changes: Any) -> dict[str, Any]:
    """Row i keeps unit i alone, at a score of 0.88; the other scores are 0.12."""
    made: dict[str, Any] = {f"{row}.prob": torch.where(torch.arange(units) == row, 2.0, -2.0) for row in range(steps)}
    return made | {name.replace("_", "."): value for name, value in changes.items()}


def of_dit(**changes: Any) -> dict[str, Any]:
    return {
        "routers": rows(4),
        "opt": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "args": Namespace(l1=1e-6),
    } | changes


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.fixture
def router(tmp_path: Path) -> Path:
    return tmp_path / "router.pt"


def read_dit(path: Path, theta: float = 0.5, steps: int = 4) -> Table:
    return l2c_router.read_table(path, DIT, make_solver("ddim", steps, DIT), theta)


def read_uvit(path: Path, theta: float = 0.5, steps: int = 8) -> Table:
    return l2c_router.read_table(path, UVIT, make_solver("dpm-solver-2", steps, UVIT), theta)


def only(unit: int, units: int = UNITS) -> tuple[int, ...]:
    return tuple(int(other == unit) for other in range(units))


def test_dit_router_rows_count_from_the_last_step_and_even_ones_reuse(router: Path) -> None:
    everything = (1,) * UNITS
    table = read_dit(saved(of_dit(), router))
    assert table.compute == (everything, only(2), everything, only(0))
    assert table.cache_steps == (1, 3)


def test_dit_router_of_an_odd_number_of_steps_computes_the_first_one(router: Path) -> None:
    everything = (1,) * UNITS
    table = read_dit(saved(of_dit(routers=rows(5)), router), steps=5)
    assert table.compute == (everything, everything, only(2), everything, only(0))
    assert table.cache_steps == (2, 4)


def test_row_i_of_a_uvit_router_rules_the_first_evaluation_of_update_i(router: Path) -> None:
    everything = (1,) * 6
    table = read_uvit(saved(rows(8, 6), router))
    full = (everything, everything)
    assert table.compute == (*full, only(1, 6), everything, only(2, 6), everything, only(3, 6), everything)
    assert table.cache_steps == (2, 4, 6)


@pytest.mark.parametrize(("theta", "computed"), [(0.0, 4), (0.11, 4), (0.5, 1), (0.9, 0), (1.0, 0)])
def test_unit_is_computed_where_its_score_is_above_the_threshold(router: Path, theta: float, computed: int) -> None:
    table = read_dit(saved(of_dit(), router), theta)
    assert [sum(table.compute[step]) for step in table.cache_steps] == [computed, computed]


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_both_containers_of_torch_are_read(router: Path, options: dict[str, Any]) -> None:
    assert read_dit(saved(of_dit(), router, **options)).cache_steps == (1, 3)


NAN = torch.full((UNITS,), float("nan"))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([], "dictionary"),
        ({"routers": []}, "routers in"),
        (of_dit(model={}), "model in"),
        (of_dit(routers=rows(3)), "3 rows for 4 steps"),
        (of_dit(routers=rows(5)), "5 rows for 4 steps"),
        (of_dit(routers=rows(4, 6)), r"0.prob in .* has shape \[6\], not \[4\]"),
        (of_dit(routers=rows(4, **{"3_prob": torch.zeros(2, 4)})), r"3.prob in .* has shape \[2, 4\]"),
        (of_dit(routers=rows(4, **{"3_prob": NAN})), "3.prob in .* not finite"),
        (of_dit(routers=rows(4, **{"1_prob": -torch.inf * torch.ones(4)})), "1.prob in .* not finite"),
        (of_dit(routers=rows(4, **{"2_prob": torch.ones(4, dtype=torch.int64)})), "2.prob in .* floating-point"),
        (of_dit(routers=rows(4, **{"2_prob": torch.ones(4, device="meta")})), "2.prob in .* the device meta"),
        (of_dit(routers=rows(4, **{"2_prob": torch.ones(4).to_sparse()})), "2.prob in .* a sparse_coo tensor"),
        (of_dit(routers=rows(4, **{"2_prob": [0.0] * 4})), "2.prob in .* no tensor"),
        (of_dit(routers=rows(4, **{"2_prob": torch.ones(4).to(torch.float8_e4m3fn)})), "2.prob in .* floating-point"),
        (of_dit(routers=rows(4, **{"2_bias": torch.ones(4)})), "2.bias in .* no row"),
        (of_dit(routers={**rows(3), "9.prob": torch.ones(4)}), "3.prob in .* missing"),
        (of_dit(routers={**rows(3), 3: torch.ones(4)}), "3 in .* no row"),
        (rows(4), "laid out as a router for dpm-solver-2, not ddim"),
    ],
)
def test_router_that_does_not_fit_is_refused_naming_what_does_not(router: Path, content: Any, named: str) -> None:
    with pytest.raises(ScheduleError, match=named) as caught:
        read_dit(saved(content, router))
    assert str(router) in caught.value.subject


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_nested_tensor_in_a_router_is_refused_and_not_made(router: Path, options: dict[str, Any]) -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(2)])
    with pytest.raises(CheckpointError, match="it asks for torch._utils._rebuild_nested_tensor"):
        read_dit(saved(of_dit(routers=rows(4, **{"2_prob": nested})), router, **options))


def test_dit_router_for_the_sampler_of_uvit_is_refused(router: Path) -> None:
    with pytest.raises(ScheduleError, match="laid out as a router for ddim, not dpm-solver-2"):
        read_uvit(saved(of_dit(routers=rows(8, 6)), router))


class _Run:
    """Calls something when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


class _Namespace(Namespace):
    """An argparse namespace that brings code of its own."""

    def __setstate__(self, state: object) -> None:
        raise AssertionError("was run")


Malicious = Callable[[Path], Any]
MALICIOUS: dict[str, Malicious] = {
    "as the whole file": lambda target: _Run(Path.touch, target),
    "eval": lambda target: of_dit(opt=_Run(eval, f"open({str(target)!r}, 'w')")),
    "as a row": lambda target: of_dit(routers=rows(4, **{"2_prob": _Run(open, str(target), "w")})),
    "as a key": lambda target: {_Run(open, str(target), "w"): 1},
    "in the namespace": lambda target: of_dit(args=Namespace(hook=_Run(open, str(target), "w"))),
    "deep in the namespace": lambda target: of_dit(
        args=Namespace(a=[Namespace(b={"c": _Run(open, str(target), "w")})])
    ),
    "instead of the namespace": lambda target: of_dit(args=_Namespace(l1=1)),
    "torch's own loader": lambda target: of_dit(opt=_Run(torch.load, str(target))),
    "a module": lambda target: of_dit(opt=torch.nn.Linear(1, 1)),
}


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
@pytest.mark.parametrize("malicious", MALICIOUS.values(), ids=MALICIOUS)
def test_pickle_that_would_run_something_is_refused_and_not_run(
    router: Path, malicious: Malicious, options: dict[str, Any]
) -> None:
    target = router.with_name("target")
    saved(malicious(target), router, **options)
    with pytest.raises(CheckpointError) as caught:
        read_dit(router)
    assert caught.value.subject == str(router)
    assert "it asks for " in caught.value.problem
    assert "weights_only" not in str(caught.value)
    assert list(router.parent.iterdir()) == [router]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bare_pickle_is_refused_and_not_run(router: Path, protocol: int) -> None:
    target = router.with_name("target")
    router.write_bytes(pickle.dumps(_Run(open, str(target), "w"), protocol))
    with pytest.raises(CheckpointError):
        read_dit(router)
    assert not target.exists()


def test_oldest_container_of_torch_is_refused_and_not_run(router: Path) -> None:
    target = router.with_name("target")
    content = pickle.dumps(_Run(open, str(target), "w"), 2)
    with tarfile.open(router, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(CheckpointError):
        read_dit(router)
    assert not target.exists()


def test_damaged_router_is_refused_with_a_typed_error_or_read(router: Path) -> None:
    whole = saved(of_dit(), router, _use_new_zipfile_serialization=False).read_bytes()
    for place in range(0, len(whole), 7):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]):
            router.write_bytes(damaged)
            with suppress(InvalidInputError):
                read_dit(router)


@pytest.mark.parametrize("read", [read_dit, recognise])
def test_missing_file_is_refused_naming_it(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises((CheckpointError, StorageError)) as caught:
        read(tmp_path / "none")
    assert caught.value.subject == str(tmp_path / "none")


def test_format_is_recognised_by_the_content(tmp_path: Path) -> None:
    path = tmp_path / "anything"
    path.write_text('\n {"attn": [1]}')
    assert recognise(path) == "smoothcache"
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        assert recognise(saved(of_dit(), path, **options)) == "l2c-router"


IDENTITY = model_identity()
MASK: Mask = ((1, 1, 1, 1), (0, 1, 0, 1), (1, 1, 1, 1))


def written(content: object, folder: Path) -> Path:
    path = folder / "smoothcache.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_smoothcache_decides_by_kind_or_by_unit(tmp_path: Path) -> None:
    by_kind = {"attn": [1, 0, 1], "mlp": [1, 1, 1]}
    assert smoothcache.read_table(written(by_kind, tmp_path), IDENTITY, 3) == Table.of(MASK, [1])
    by_unit = {"mlp-1": [1, 1, 1], "attn-0": [1, 0, 1], "mlp-0": [1, 1, 1], "attn-1": [1, 0, 1]}
    assert smoothcache.read_table(written(by_unit, tmp_path), IDENTITY, 3) == Table.of(MASK, [1])


BY_KIND = {"attn": [1, 0, 1], "mlp": [1, 1, 1]}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([["attn", [1]]], "no JSON object"),
        ({}, "attn-0 in .* missing"),
        ({"attn": [1, 0, 1]}, "mlp in .* missing"),
        (BY_KIND | {"cross": [1, 1, 1]}, "cross in .* no unit"),
        (BY_KIND | {"attn-0": [1, 1, 1]}, "attn-0 in .* no unit"),
        ({f"{kind}-{block}": [1, 1, 1] for kind in BY_KIND for block in range(3)}, "attn-2 in .* no unit"),
        ({"attn-0": [1, 1, 1], "mlp-0": [1, 1, 1]}, "attn-1 in .* missing"),
        (BY_KIND | {"mlp": [1, 1]}, "mlp in .* 2 values for 3 steps"),
        (BY_KIND | {"mlp": [1, 1, 1, 1]}, "mlp in .* 4 values for 3 steps"),
        (BY_KIND | {"mlp": [0, 1, 1]}, "mlp in .* step 0"),
        (BY_KIND | {"mlp": [1, 1, 2]}, "mlp in .* 0 and 1"),
        (BY_KIND | {"mlp": [1, 1, 0.0]}, "mlp in .* 0 and 1"),
        (BY_KIND | {"mlp": [True, True, True]}, "mlp in .* 0 and 1"),
        (BY_KIND | {"mlp": "111"}, "mlp in .* 0 and 1"),
        (BY_KIND | {"mlp": {}}, "mlp in .* "),
        (BY_KIND | {"mlp": None}, "mlp in .* 0 and 1"),
        ('{"attn": [1, 1, 1], "mlp": [1, 1, 1], "attn": [1, 0, 1]}', "attn in .* more than once"),
    ],
)
def test_smoothcache_file_that_does_not_fit_is_refused_naming_the_key(
    tmp_path: Path, content: object, named: str
) -> None:
    path = written(content, tmp_path)
    with pytest.raises(ScheduleError, match=named) as caught:
        smoothcache.read_table(path, IDENTITY, 3)
    assert str(path) in caught.value.subject


def test_exported_schedule_is_imported_as_the_same_table(tmp_path: Path) -> None:
    schedule = small_schedule()
    exported = smoothcache.export(schedule)
    assert json.loads(exported.text)["attn-1"] == [1, 0, 1]
    table = smoothcache.read_table(written(exported.text, tmp_path), schedule.model, 3)
    assert table.compute == schedule.table.compute


def test_blocks_of_any_name_are_numbered_in_order() -> None:
    blocks = ("in_blocks.0", "mid_block", "out_blocks.0")
    names = tuple(f"{block}.{kind}" for block in blocks for kind in ("attention", "mlp"))
    model = model_identity(family="uvit", depth=3, units=names)
    exported = smoothcache.export(small_schedule(model=model, table=Table.of(((1,) * 6, (0,) * 6, (1,) * 6))))
    assert list(json.loads(exported.text)) == ["attn-0", "mlp-0", "attn-1", "mlp-1", "attn-2", "mlp-2"]


def test_kind_that_smoothcache_has_no_name_for_is_refused() -> None:
    model = model_identity(units=("a.0.attention", "a.0.cross", "a.1.attention", "a.1.cross"))
    with pytest.raises(ScheduleError, match=r"a\.0\.cross"):
        smoothcache.export(small_schedule(model=model))


def forecasting() -> Table:
    mask: Mask = ((1,) * 4, (1,) * 4, (0,) * 4, (0, 0, 0, 1))
    forecast = ((),) * 4, ((),) * 4, ((0.5,),) * 4, ((0.5,), (), (), ())
    return Table.of(mask, forecast=forecast)


def of_four_steps(table: Table) -> Any:
    sampler = sampler_identity(steps=4, timesteps=(999.0, 500.0, 250.0, 0.0))
    return small_schedule(sampler=sampler, table=table)


def test_mask_for_cache_dit_reuses_only_where_every_unit_is_reused() -> None:
    exported = cache_dit.export(of_four_steps(forecasting()))
    assert json.loads(exported.text) == {
        "num_inference_steps": 4,
        "steps_computation_mask": [1, 1, 0, 1],
        "steps_computation_policy": "static",
    }
    decisions, forecast = exported.lost
    assert "3 of 7 reused units" in decisions
    assert "all units at 3 of 4 steps" in decisions
    assert "forecast of 5 reused units" in forecast


def test_forecast_is_lost_in_smoothcache_s_format_too() -> None:
    exported = smoothcache.export(of_four_steps(forecasting()))
    assert any("forecast of 5 reused units" in lost for lost in exported.lost)
    assert not any("forecast" in lost for lost in smoothcache.export(small_schedule()).lost)
