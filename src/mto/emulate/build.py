"""Compiles the emulated CUDA runtime, once for each version of torch and of its sources; imports no torch."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from mto.errors import UserError

SOURCES = ("runtime.cpp", "libraries.cpp")
#: The name by which torch and Triton ask for the driver; one file is driver, runtime and libraries.
NAME = "libcuda.so.1"
#: torch's libraries that call CUDA, and what they call.
CALLERS = ("c10_cuda", "torch_cuda", "torch_cuda_linalg", "torch_python", "torch_cpu")
CALLED = re.compile(r"(?:__)?cuda[A-Z]\w*|(?:cublas|cudnn|cusolver|cusparse|cufft|nccl)[A-Z]\w*")
#: Of the libraries' calls, those that stand for a kernel.
KERNELS = re.compile(r"cublas\w*(gemm|Gemm|gemv|dot|trsm)\w*|\w*Matmul|\w+(syevd?j?|Xsyev\w*|geqrf|getrf\w*|potrf\w*)")


def unavailable() -> str | None:
    """Returns why no GPU can be emulated here, in one line; None where one can."""
    if missing := [tool for tool in ("g++", "nm") if shutil.which(tool) is None]:
        return f"a GPU is emulated by a small library, and {' and '.join(missing)} to build it with not found here"
    if _packages() is None:
        return (
            "a GPU is emulated for the CUDA build of torch, as envs/requirements.txt has it, and this torch is another"
        )
    return None


def library() -> Path:
    """Returns the path of the library, which is compiled first where it is not there yet (some ten seconds).

    Raises:
        UserError: there is no compiler, torch is not the CUDA build, or the compiler failed.
    """
    if reason := unavailable():
        raise UserError(reason)
    sources = [Path(__file__).with_name(name) for name in (*SOURCES, Path(__file__).name)]
    content = b"".join(source.read_bytes() for source in sources) + version("torch").encode()
    folder = _cache() / hashlib.sha256(content).hexdigest()[:16]
    if not (folder / NAME).exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            _compile(Path(made))
            folder.mkdir(exist_ok=True)
            os.replace(Path(made) / NAME, folder / NAME)
    return folder / NAME


def _cache() -> Path:
    """Returns a folder of this user alone, since what lies in it is executed."""
    folder = Path(tempfile.gettempdir()) / f"mto-emulate-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: belongs to another user; set TMPDIR to a folder of your own")
    return folder


def _packages() -> Path | None:
    """Returns where torch lies with its CUDA libraries and NVIDIA's headers; None where they are missing."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    packages = Path(torch.origin).parents[1]
    return packages if (packages / "torch" / "lib" / "libtorch_cuda.so").exists() and _headers(packages) else None


def _headers(packages: Path) -> Path | None:
    """Returns the folder of CUDA's headers: torch's wheels lack the innermost ones, Triton has all of them."""
    for folder in (
        *sorted(packages.glob("nvidia/cu*/include")),
        packages / "triton" / "backends" / "nvidia" / "include",
    ):
        if all((folder / name).exists() for name in ("cuda_runtime_api.h", "cuda.h", "crt/host_defines.h")):
            return folder
    return None


def _compile(folder: Path) -> None:
    packages = _packages()
    assert packages is not None
    headers = _headers(packages)
    assert headers is not None
    (folder / "stubs.cpp").write_text(_stubs(packages, headers), encoding="utf-8")
    sources = [*(str(Path(__file__).with_name(name)) for name in SOURCES), str(folder / "stubs.cpp")]
    command = ["g++", "-O1", "-std=c++17", "-fPIC", "-shared", "-w", f"-I{headers}", *sources, f"-Wl,-soname,{NAME}"]
    result = subprocess.run([*command, "-ldl", "-o", str(folder / NAME)], capture_output=True, text=True)
    if result.returncode:
        reason = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr.strip())
        raise UserError(f"g++ could not build the emulated GPU: {reason}")


def _stubs(packages: Path, headers: Path) -> str:
    """Returns C++ stubs of what torch calls in CUDA's libraries, and of the driver: each succeeds, and is counted.

    They are weak symbols, so that those of the other sources take precedence.
    """
    libraries = [str(packages / "torch" / "lib" / f"lib{name}.so") for name in CALLERS]
    listed = subprocess.run(["nm", "-D", "--undefined-only", *libraries], capture_output=True, text=True, check=True)
    symbols = (line.split()[-1].partition("@")[0] for line in listed.stdout.splitlines() if line.strip())
    names = {symbol for symbol in symbols if CALLED.fullmatch(symbol)}
    header = (headers / "cuda.h").read_text(encoding="utf-8", errors="replace")
    names |= set(re.findall(r"CUDAAPI\s+(cu[A-Z]\w*)\s*\(", header))
    names |= set(re.findall(r"#define\s+cu\w+\s+(?:__CUDA_API_PT\w+\()?(cu\w+_v\d+)\b", header))
    lines = ['extern "C" void emulated_counted(const char* what);']
    for name in sorted(names):
        kind = "launch library" if KERNELS.fullmatch(name) else "call"
        lines.append(
            f'extern "C" __attribute__((weak)) int {name}() {{ return emulated_counted("{kind} {name}"), 0; }}'
        )
    return "\n".join(lines) + "\n"
