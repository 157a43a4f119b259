"""Reading compiled programs: collectives, their bytes, loops, and traffic with main memory."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from train.pods.hlo import HloModule, Instruction, Traffic, num_bytes
from train.pods.memory import memory_traffic

# As the compiler for TPUs writes it: a collective that runs beside other work stands in several fusions.
_BESIDE = """HloModule step, is_scheduled=true

%start (p.0: bf16[64,128]) -> (bf16[256,128], bf16[256,128]) {
  %p.0 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.1 = bf16[256,128]{1,0:T(8,128)(2,1)} all-gather(%p.0), channel_id=9, replica_groups=MESH {'axis_1'}
}

%beside (p.1: bf16[64,128]) -> bf16[256,128] {
  %p.1 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.2 = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.1), channel_id=9, replica_groups=MESH {'axis_1'}
}

ENTRY %main (w: bf16[64,128]) -> bf16[256,128] {
  %w = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %async-collective-start = (bf16[256,128]{1,0}, bf16[256,128]{1,0}) fusion(%w), kind=kLoop, calls=%start
  %fusion.1 = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} fusion(%w), kind=kOutput, calls=%beside
  %both = (f32[8]{0}, /*index=1*/f32[]) all-reduce(%a, %b), replica_groups=MESH {'axis_0','axis_1'}, to_apply=%add
  %a = f32[8]{0:T(128)} constant({...})
  %b = f32[]{:T(128)} constant(0)
  %all-reduce.2 = f32[8]{0} all-reduce(%a), replica_groups=[4,4]<=[16], to_apply=%add
  %permute-start = (f32[8]{0}, f32[8]{0}) collective-permute-start(%a), source_target_pairs={{0,1},{1,0}}
  %permute-done = f32[8]{0} collective-permute-done(%permute-start)
  ROOT %done = bf16[256,128]{1,0} bitcast(%fusion.1)
}
""".replace("MESH", "mesh['axis_0'=4,'axis_1'=4]")

_MOVES = """HloModule step

%body (arg: (s32[], f32[1000])) -> (s32[], f32[1000]) {
  %arg = (s32[]{:T(128)}, f32[1000]{0:T(1024)}) parameter(0)
  %x = f32[1000]{0:T(1024)} get-tuple-element(%arg), index=1
  %i = s32[]{:T(128)S(6)} get-tuple-element(%arg), index=0
  %twice = f32[1000]{0:T(1024)} fusion(%x), kind=kLoop, calls=%inside
  %sum = f32[1000]{0:T(1024)S(1)} all-reduce(%twice), replica_groups={}, to_apply=%add
  ROOT %out = (s32[]{:T(128)}, f32[1000]{0:T(1024)}) tuple(%i, %x)
}

%inside (p: f32[1000]) -> f32[1000] {
  %p = f32[1000]{0:T(1024)} parameter(0)
  ROOT %add.1 = f32[1000]{0:T(1024)} add(%p, %p)
}

%condition (arg: (s32[], f32[1000])) -> pred[] {
  %arg.1 = (s32[]{:T(128)}, f32[1000]{0:T(1024)}) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %j = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%j, %limit), direction=LT
}

ENTRY %main (big: f32[3,1000]) -> f32[1000] {
  %big = f32[3,1000]{1,0:T(8,128)} parameter(0)
  %slice-start = ((f32[3,1000]{1,0:T(8,128)}), f32[1,1000]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%big)
  %slice-done = f32[1,1000]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %copy-start = (f32[1000]{0:T(1024)}, f32[1000]{0:T(1024)S(1)}, u32[]{:S(2)}) copy-start(%slice-done)
  %copy-done = f32[1000]{0:T(1024)} copy-done(%copy-start)
  %zero = s32[]{:T(128)} constant(0)
  %init = (s32[]{:T(128)}, f32[1000]{0:T(1024)}) tuple(%zero, %copy-done)
  %while.1 = (s32[]{:T(128)}, f32[1000]{0:T(1024)}) while(%init), condition=%condition, body=%body
  ROOT %result = f32[1000]{0:T(1024)} get-tuple-element(%while.1), index=1
}
"""


def _mesh() -> Mesh:
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def _compiled(function: Callable[[jax.Array], jax.Array]) -> HloModule:
    """On (16, 128) float32, divided among 8 devices: 1 KiB each."""
    rows = P(("a", "b"))
    shared = jax.shard_map(function, mesh=_mesh(), in_specs=rows, out_specs=rows, check_vma=False)
    return HloModule(jax.jit(shared).lower(jnp.zeros((16, 128))).compile().as_text(), 8)


def _looped(x: jax.Array) -> jax.Array:
    def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jax.lax.psum(jnp.sin(carry), "a"), None

    return jax.lax.scan(body, x, length=5)[0]


@pytest.mark.parametrize(
    ("function", "kind", "expected"),
    [
        (lambda x: jax.lax.psum(x, ("a", "b")), "all-reduce", Traffic(1, 1024, 1792.0)),
        (lambda x: jax.lax.psum(x, "b"), "all-reduce", Traffic(1, 1024, 1536.0)),
        (lambda x: jax.lax.all_gather(x, "b"), "all-gather", Traffic(1, 4096, 3072.0)),
        (lambda x: jax.lax.psum_scatter(x, "a"), "reduce-scatter", Traffic(1, 1024, 512.0)),
        (lambda x: jax.lax.ppermute(x, "a", [(0, 1), (1, 0)]), "collective-permute", Traffic(1, 1024, 1024.0)),
        (_looped, "all-reduce", Traffic(5, 5120, 5120.0)),
    ],
)
def test_collectives_are_counted_with_their_bytes(
    function: Callable[[jax.Array], jax.Array], kind: str, expected: Traffic
) -> None:
    assert dict(_compiled(function).traffic()) == {kind: expected}


def test_what_the_partitioner_adds_is_counted_too() -> None:
    mesh = _mesh()
    split, whole = NamedSharding(mesh, P(("a", "b"))), NamedSharding(mesh, P())
    batch = jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=split)
    weights = jax.ShapeDtypeStruct((4, 3), jnp.float32, sharding=whole)
    gradient = jax.jit(jax.grad(lambda w, x: jnp.square(x @ w).sum()), out_shardings=whole)
    program = HloModule(gradient.lower(weights, batch).compile().as_text(), 8)
    assert dict(program.traffic()) == {"all-reduce": Traffic(1, 4 * 3 * 4, 4 * 3 * 4 * 2 * 7 / 8)}


def test_a_collective_beside_other_work_counts_once() -> None:
    traffic = HloModule(_BESIDE, 16).traffic()
    gathered = 256 * 128 * 2
    assert traffic["all-gather"] == Traffic(1, gathered, gathered * 3 / 4)
    assert traffic["all-reduce"] == Traffic(2, 36 + 32, 36 * 2 * 15 / 16 + 32 * 2 * 3 / 4)
    assert traffic["collective-permute"] == Traffic(1, 32, 32.0)


def test_loops_run_as_often_as_their_condition_counts() -> None:
    program = HloModule(_MOVES, 8)
    assert program.runs() == {"main": 1, "body": 5, "inside": 5}
    assert program.traffic() == {"all-reduce": Traffic(5, 20_000, 35_000.0)}


def test_memory_traffic_leaves_out_what_stays_on_the_chip() -> None:
    outside = 4000 + 4000  # a slice is read, a copy is written
    body = 3 * 4000  # the fusion reads and writes, the all-reduce reads
    assert memory_traffic(HloModule(_MOVES, 8)) == outside + 5 * body


def test_rows_of_an_array_that_a_loop_changes_in_place_count_as_rows() -> None:
    def change(x: jax.Array) -> jax.Array:
        def body(x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            row = jax.lax.dynamic_slice(x, (i, 0), (1, 1000))
            return jax.lax.dynamic_update_slice(x, 2 * row + 1, (i, 0)), None

        return jax.lax.scan(body, x, jnp.arange(1024))[0]

    def stack(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, row: (carry, 2 * row + 1), None, x)[1]

    array = 1024 * 1000 * 4
    beside = 1024 * 64  # the counter
    for function, arrays in ((change, 2), (stack, 3)):  # the other fills the stack with 0 first
        program = HloModule(jax.jit(function, donate_argnums=0).lower(jnp.zeros((1024, 1000))).compile().as_text(), 1)
        copies = sum(line.opcode == "copy" and "1000" in line.type for line in _entry(program))
        moved = memory_traffic(program)
        assert program.unknown_loops() == 0
        assert 0 <= moved - (arrays + 2 * copies) * array < beside


def _entry(program: HloModule) -> list[Instruction]:
    return [line for name, body in program.computations.items() if name.startswith("main") for line in body.values()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%r = f32[64,8] dynamic-update-slice(%x, %row, %i, %i)", 2 * 32 + 8),
        ("%r = f32[64,8]{1,0:S(1)} dynamic-update-slice(%x, %row, %i, %i)", 32 + 8),
        ("%r = f32[1,8] dynamic-slice(%x, %i, %i), dynamic_slice_sizes={1,8}", 2 * 32 + 8),
        ("%r = f32[1,8]{1,0:S(1)} slice(%x), slice={[0:1], [0:8]}", 32),
        ("%r = (f32[64,8], f32[1,8]) fusion(%x, %row, %i), kind=kLoop, calls=%inside", 32 + 32 + 4 + 32 + 32),
        ("%r = f32[64,8] fusion(%x), kind=kLoop, calls=%outside", 2 * 2048),
        ("%r = (f32[1,8], f32[4,8]) all-gather-start(%row), dimensions={0}", 32 + 128),
        ("%r = f32[1,8] all-reduce-start(%row), to_apply=%add", 2 * 32),
        ("%r = ((f32[64,8]), f32[32,8], u32[]) async-start(%x), calls=%scatter", 2048 + 1024),
    ],
)
def test_slices_and_what_begins_are_counted_once(line: str, expected: int) -> None:
    text = f"""HloModule step

%inside (p: f32[64,8], q: f32[1,8], at: s32[]) -> (f32[64,8], f32[1,8]) {{
  %p = f32[64,8] parameter(0)
  %b = f32[64,8] bitcast(%p)
  %q = f32[1,8] parameter(1)
  %at = s32[] parameter(2)
  %old = f32[1,8] dynamic-slice(%b, %at, %at), dynamic_slice_sizes={{1,8}}
  %new = f32[1,8] add(%old, %q)
  %changed = f32[64,8] dynamic-update-slice(%b, %new, %at, %at)
  ROOT %both = (f32[64,8], f32[1,8]) tuple(%changed, %old)
}}

%same (n: f32[64,8]) -> f32[64,8] {{
  %n = f32[64,8] parameter(0)
  ROOT %as_it_was = f32[64,8] bitcast(%n)
}}

%outside (o: f32[64,8]) -> f32[64,8] {{
  %o = f32[64,8] parameter(0)
  %nested = f32[64,8] fusion(%o), kind=kLoop, calls=%same
  ROOT %twice = f32[64,8] add(%nested, %nested)
}}

%scatter (s: f32[64,8]) -> f32[32,8] {{
  %s = f32[64,8] parameter(0)
  ROOT %scattered = f32[32,8] reduce-scatter(%s), replica_groups={{{{0,1}}}}, dimensions={{0}}, to_apply=%add
}}

ENTRY %main (x: f32[64,8], row: f32[1,8], i: s32[]) -> f32[] {{
  %x = f32[64,8] parameter(0)
  %row = f32[1,8] parameter(1)
  %i = s32[] parameter(2)
  {line}
  ROOT %end = () tuple()
}}
"""
    assert memory_traffic(HloModule(text, 2)) == expected


def test_loops_of_unknown_length_are_told() -> None:
    def halve(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: x > 1, lambda x: x / 2, x)

    assert HloModule(jax.jit(halve).lower(jnp.float32(9)).compile().as_text(), 1).unknown_loops() == 1
    assert HloModule(_MOVES, 8).unknown_loops() == 0


def test_repetition_weighs_by_size() -> None:
    assert HloModule(_MOVES, 8).repetition("add") == 5
    assert HloModule(_MOVES, 8).repetition("convolution") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f32[]", 4),
        ("pred[7]{0}", 7),
        ("s4[10]{0}", 5),
        ("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/(u8[4]{0}, f8e4m3fn[5]))", 12 + 4 + 5),
        ("token[]", 0),
    ],
)
def test_bytes_of_types(text: str, expected: int) -> None:
    assert num_bytes(text) == expected
