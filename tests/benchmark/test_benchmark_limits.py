"""The machine's limits, the count of work, peak memory, and where the time goes."""

import pytest
import torch
from families import FAMILIES, images, make_pair

from trocr.benchmark.errors import BenchmarkError
from trocr.benchmark.lines import BenchmarkLine, with_lengths, with_pixels
from trocr.benchmark.memory import PeakMemory, page_faults
from trocr.benchmark.profile import PARTS, profile_model
from trocr.benchmark.roofline import PRECISIONS, Roofline, Work, measure_roofline
from trocr.benchmark.weights import TINY, draw_weights, image_processor_of, shape_config
from trocr.fast import optimize
from trocr.models import VisionEncoderDecoderModel

MIB = 2**20


def test_limits_are_positive_and_finite():
    found = measure_roofline(shape=(32, 64, 64), read_bytes=MIB, repeats=1)
    assert set(found.flops) | set(found.problems) >= {
        "float32 F.linear",
        "float32 packed",
        "bfloat16 F.linear",
    }
    assert found.flops["float32 F.linear"] > 0
    for value in (*found.flops.values(), found.read_bytes):
        assert 0 < value < float("inf")
    assert found.best("float32") == max(v for k, v in found.flops.items() if k.startswith("float32"))
    assert "GFLOP/s" in found.table()
    assert "GB/s" in found.table()


def test_numbers_of_the_limits_come_from_the_clock():
    ticks = iter(range(1000))
    found = measure_roofline(shape=(2, 3, 5), read_bytes=400, repeats=2, clock=lambda: float(next(ticks)))
    assert found.flops["float32 F.linear"] == 2 * 2 * 3 * 5
    assert found.read_bytes == 400
    with pytest.raises(BenchmarkError, match="expected at least 1"):
        measure_roofline(repeats=0)


def test_the_longer_of_arithmetic_and_reading_counts():
    machine = Roofline(flops={"float32 a": 10.0, "float32 b": 20.0}, read_bytes=4.0, problems={"int8": "no"})
    assert machine.least_s(40.0, 4.0, "float32") == 2.0
    assert machine.least_s(20.0, 12.0, "float32") == 3.0
    with pytest.raises(BenchmarkError, match=r"no product of int8 was measured: \{'int8': 'no'\}"):
        machine.least_s(1.0, 1.0, "int8")


def test_work_is_what_the_decoder_reads(tmp_path):
    model = make_pair("learned", tmp_path).ours
    work = Work.of(model)
    decoder = model.config.decoder
    width, hidden, memory = decoder.d_model, decoder.decoder_ffn_dim, 32
    block = 4 * width**2 + 2 * width**2 + 2 * width * hidden
    assert work.weights == 2 * block + width * decoder.vocab_size
    tokens = 1 + (32 // 8) ** 2
    assert work.states == 2 * tokens * 2 * width
    assert work.project_flops == 2 * 2 * 2 * tokens * memory * width
    assert work.token_flops == 2 * (work.weights + work.states + 2 * 2 * width)


def test_finished_rows_cost_nothing_at_the_limit():
    work = Work(encode_flops=8, project_flops=0, token_flops=2, weights=10, encoder_weights=1, states=0)
    machine = Roofline(flops={f"{name} a": 1.0 for name in PRECISIONS}, read_bytes=40.0, problems={})
    assert work.least_decode_s([3], machine, "float32") == 3 * 2
    assert work.least_decode_s([3, 1], machine, "float32") == 4 + 2 + 2
    assert work.least_decode_s([], machine, "float32") == 0
    assert work.least_encode_s(2, machine, "int8") == 16
    slow = Roofline(flops={"float32 a": 1e9}, read_bytes=40.0, problems={})
    assert work.least_decode_s([3, 1], slow, "float32") == pytest.approx(3.0)


def test_peak_memory_counts_what_is_gone_again():
    with PeakMemory() as memory:
        block = bytearray(64 * MIB)
        del block
    if memory.peak_bytes is None:
        pytest.skip("this system does not tell the peak of a process")
    assert 60 * MIB < memory.peak_bytes < 80 * MIB
    with PeakMemory() as later:
        pass
    assert later.peak_bytes < 8 * MIB, "the peak of before was not forgotten"
    assert page_faults() > 0


def test_random_models_write_tokens_that_vary():
    model = VisionEncoderDecoderModel(shape_config(TINY)).eval()
    draw_weights(model)
    pixels = images(FAMILIES["learned"], 4)
    rows = model.generate(pixels, min_new_tokens=9, max_new_tokens=9)[:, 1:].tolist()
    assert len(set(map(tuple, rows))) > 1, "the image makes no difference"
    assert min(len(set(row)) for row in rows) > 2
    with pytest.raises(BenchmarkError, match="no shape 'bass', did you mean 'base'"):
        shape_config("bass")


@pytest.mark.parametrize("fast", [False, True])
def test_profile_finds_every_part(fast, made_lines):
    plain = VisionEncoderDecoderModel(shape_config(TINY)).eval()
    model = optimize(plain) if fast else plain
    processor = image_processor_of(TINY)
    lines: list[BenchmarkLine] = with_lengths(with_pixels(made_lines(2), processor), most=6)
    before = model.generate(torch.stack([line.pixels for line in lines]), max_new_tokens=3)
    groups = profile_model(model, lines, processor)
    assert set(groups) == set(PARTS)
    assert all(seconds > 0 for group in groups.values() for seconds in group.values())
    products = {name for name in groups["encoder"] if "linear" in name or "addmm" in name}
    assert products, groups["encoder"]
    assert any("norm" in name for name in groups["decoder"])
    assert not any("norm" in name for name in groups["head"])
    after = model.generate(torch.stack([line.pixels for line in lines]), max_new_tokens=3)
    assert torch.equal(before, after)
    assert "forward" not in vars(plain.decoder.output_projection), "a range was left in the model"
