"""What only a GPU can show. As unittest's, so that they run where pytest is not installed: ``python -m unittest``."""

from __future__ import annotations

import os
import unittest
import warnings

import torch
from cases import Case, relative_error
from torch import Tensor

from involution import Involution2d, backends, involution2d
from involution.backends import triton
from involution.memory_layout import empty_field, empty_map

CASE = Case((13, 17), kernel=7, channels=64, groups=4)


def tensors(case: Case, dtype: torch.dtype = torch.float32, channels_last: bool = True) -> list[Tensor]:
    torch.manual_seed(0)
    return [t.cuda() for t in case.tensors(dtype, channels_last)]


@unittest.skipUnless(torch.cuda.is_available(), "PyTorch sees no GPU")
class TestGpu(unittest.TestCase):
    def check(self, case: Case, x: Tensor, h: Tensor, dy: Tensor, backend: str = "triton") -> None:
        """Compare output and gradients with the reference in float64."""
        bound = {torch.float32: 1e-5, torch.float16: 1.5e-3, torch.bfloat16: 1e-2}[x.dtype]
        results = []
        for dtype, name in ((x.dtype, backend), (torch.float64, "reference")):
            a, b = x.detach().to(dtype).requires_grad_(), h.detach().to(dtype).requires_grad_()
            y = case.involution(a, b, backend=name)
            results.append((y, *torch.autograd.grad(y, (a, b), dy.to(dtype))))
        for actual, expected in zip(*results, strict=True):
            self.assertLess(relative_error(actual, expected), bound)

    def test_it_serves_this_gpu(self):
        reasons = backends.explain("cuda")
        self.assertIsNone(reasons["triton"])
        self.assertEqual(next(name for name, reason in reasons.items() if reason is None), "triton")

    def test_output_and_gradients(self):
        # A cross-section: ``benchmarks.gpu.parity`` goes through all geometries.
        others = (CASE.with_(stride=2), CASE.with_(dilation=2, kernel=3), Case((37,), kernel=5, channels=32))
        for case, dtype, channels_last in (
            *((CASE, dtype, True) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
            *((case, torch.bfloat16, False) for case in (CASE, *others)),
        ):
            with self.subTest(case=str(case), dtype=dtype, channels_last=channels_last):
                self.check(case, *tensors(case, dtype, channels_last))

    def test_memory_that_begins_anywhere(self):
        """Loads of 16 bytes are only for tensors that lie so."""

        def shifted(t: Tensor) -> Tensor:
            memory = torch.empty(t.numel() + 1, device="cuda", dtype=t.dtype)
            return memory[1:].as_strided(t.shape, t.stride()).copy_(t)

        x, h, dy = (shifted(t) for t in tensors(CASE, torch.bfloat16))
        self.assertTrue(x.data_ptr() % 16)
        self.check(CASE, x, h, dy)

    def test_expanded_gradients_and_cropped_maps(self):
        x, h, dy = tensors(CASE, torch.bfloat16)
        wide = torch.zeros(2, 64, 15, 20, device="cuda", dtype=x.dtype).to(memory_format=torch.channels_last)
        cropped = wide[:, :, 1:14, 2:19].copy_(x)
        self.check(CASE, cropped, h[..., :1, :1].expand_as(h), dy[:, :, :1, :1].expand_as(dy))

    def test_float64_goes_through_the_reference(self):
        x, h, _ = tensors(CASE, torch.float64)
        self.assertTrue(torch.equal(CASE.involution(x, h), CASE.involution(x, h, backend="reference")))

    def test_equal_bits_every_time(self):
        x, h, dy = tensors(CASE, torch.bfloat16)
        x.requires_grad_()
        h.requires_grad_()
        runs = []
        for _ in range(5):
            y = CASE.involution(x, h)
            runs.append((y, *torch.autograd.grad(y, (x, h), dy)))
        for run in runs[1:]:
            self.assertTrue(all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True)))

    def test_another_stream(self):
        x, h, _ = tensors(CASE)
        expected = CASE.involution(x, h)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # The input is changed on this stream just before: a launch on another one would read the old values.
            torch.cuda._sleep(20_000_000)
            y = CASE.involution(x.mul_(2), h)
        torch.cuda.current_stream().wait_stream(stream)
        torch.testing.assert_close(y, 2 * expected)

    @unittest.skipUnless(torch.cuda.device_count() > 1, "needs two GPUs")
    def test_another_device(self):
        x, h, dy = (t.to("cuda:1") for t in tensors(CASE))
        self.check(CASE, x, h, dy)

    def test_cuda_graph(self):
        layer = Involution2d(64).cuda().to(memory_format=torch.channels_last)
        x = torch.randn(2, 64, 14, 14, device="cuda").to(memory_format=torch.channels_last)
        layer.eval()
        with torch.inference_mode():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    layer(x)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = layer(x)
            x.normal_()
            graph.replay()
            torch.testing.assert_close(y, layer(x))

    def test_compile_in_one_piece(self):
        layer = Involution2d(64, stride=2).cuda().to(memory_format=torch.channels_last)
        x = torch.randn(2, 64, 15, 14, device="cuda").to(memory_format=torch.channels_last).requires_grad_()
        expected = torch.autograd.grad(layer(x).square().mean(), (x, *layer.parameters()))
        actual = torch.autograd.grad(torch.compile(layer, fullgraph=True)(x).square().mean(), (x, *layer.parameters()))
        for a, e in zip(actual, expected, strict=True):
            self.assertLess(relative_error(a, e), 1e-3)

    def test_autocast(self):
        layer = Involution2d(64).cuda()
        x = torch.randn(2, 64, 14, 14, device="cuda", requires_grad=True)
        with torch.autocast("cuda", torch.bfloat16):
            y = layer(x)
        self.assertEqual(y.dtype, torch.bfloat16)
        y.float().square().mean().backward()
        self.assertTrue(all(p.grad.isfinite().all() for p in layer.parameters()))

    def test_data_parallel_processes(self):
        import torch.distributed as dist

        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29541")
        dist.init_process_group("nccl", rank=0, world_size=1)
        try:
            layer = Involution2d(64).cuda()
            parallel = torch.nn.parallel.DistributedDataParallel(layer, device_ids=[0])
            parallel(torch.randn(2, 64, 14, 14, device="cuda")).square().mean().backward()
            self.assertTrue(all(p.grad is not None for p in layer.parameters()))
        finally:
            dist.destroy_process_group()

    def test_more_elements_than_32_bits_count(self):
        free, _ = torch.cuda.mem_get_info()
        if free < 24 << 30:
            self.skipTest(f"needs 24 GiB of free GPU memory, {free >> 30} GiB are free")
        # 2³¹ elements of input, four images apart; one kernel of 3×3 taps for all channels.
        x = torch.randn(5, 512, 1024, 1024, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        h = torch.randn(5, 1, 3, 3, 1024, 1024, device="cuda", dtype=torch.bfloat16)
        self.assertGreater(x.numel(), 2**31)
        y = involution2d(x, h, backend="triton")
        expected = involution2d(x[4:, :, -40:, -40:].float(), h[4:, ..., -40:, -40:].float(), backend="reference")
        error = relative_error(y[4:, :, -32:, -32:], expected[:, :, 8:, 8:])
        self.assertLess(error, 1e-2)

    def test_taps_further_apart_than_32_bits_count(self):
        free, _ = torch.cuda.mem_get_info()
        if free < 24 << 30:
            self.skipTest(f"needs 24 GiB of free GPU memory, {free >> 30} GiB are free")
        # One image, 49 maps of weights: from the first row of taps to the last there are more than 2³¹ elements.
        side, near, inner = 7200, 40, 32
        x = torch.randn(1, 16, side, side, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        h = torch.randn(1, 1, 7, 7, side, side, device="cuda", dtype=torch.bfloat16)
        dy = torch.randn_like(x)
        self.assertGreater(h.stride(2) * 6, 2**31)

        def corner(backend: str, x: Tensor, h: Tensor, dy: Tensor) -> list[Tensor]:
            x, h = x.detach().requires_grad_(), h.detach().requires_grad_()
            y = involution2d(x, h, backend=backend)
            results = (y.detach(), *torch.autograd.grad(y, (x, h), dy))
            return [t[..., -inner:, -inner:].double() for t in results]

        expected = corner("reference", *(t[..., -near:, -near:].double() for t in (x, h, dy)))
        for actual, e in zip(corner("triton", x, h, dy), expected, strict=True):
            self.assertLess(relative_error(actual, e), 1e-2)

    def test_fused_forward(self):
        from involution.backends.triton import banded_launch

        for dtype in (torch.float16, torch.bfloat16):
            for rows, columns, groups in ((56, 56, 4), (7, 7, 8), (9, 13, 2)):
                x = empty_map(
                    torch.empty(0, dtype=dtype, device="cuda"), (3, 16 * groups, rows, columns), True
                ).normal_()
                hidden = empty_map(x, (3, 4 * groups, rows, columns), True).normal_()
                weight = torch.randn(groups, 7, 7, 4 * groups, device="cuda", dtype=dtype) / (4 * groups) ** 0.5
                bias = torch.randn(groups * 49, device="cuda", dtype=dtype)
                out = torch.full_like(x, float("nan"))
                with triton.on_device(x):
                    banded_launch.span_and_contract(out, x, hidden, weight, bias)
                field = torch.einsum("nc,bchw->bnhw", weight.double().flatten(0, 2), hidden.double())
                field = (field + bias.double()[:, None, None]).unflatten(1, (groups, 7, 7))
                expected = involution2d(x.double(), field, backend="reference")
                with self.subTest(dtype=dtype, rows=rows, columns=columns):
                    self.assertLess(relative_error(out, expected), torch.finfo(dtype).eps)

    def test_not_a_number_stays_in_its_windows(self):
        x, h, _ = tensors(CASE, torch.bfloat16)
        x[0, 5, 6, 7] = float("nan")
        y = CASE.involution(x, h, backend="triton")
        self.assertTrue(torch.equal(y.isnan(), CASE.involution(x, h, backend="reference").isnan()))

    def test_every_element_is_written(self):
        x, h, dy = tensors(CASE, torch.bfloat16)
        nan = float("nan")
        y, dx = empty_map(x, dy.shape, True).fill_(nan), empty_map(x, x.shape, True).fill_(nan)
        dh = empty_field(x, h.shape, True).fill_(nan)
        triton.forward(y, x, h, CASE.window)
        triton.input_gradient(dx, dy, h, CASE.window)
        triton.kernel_gradient(dh, dy, x, CASE.window)
        self.assertFalse(any(t.isnan().any() for t in (y, dx, dh)))

    def test_no_warning_where_it_serves(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            x, h, _ = tensors(CASE)
            CASE.involution(x, h)
