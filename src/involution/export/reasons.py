"""What an engine or an exporter says of an error, without where in its own sources it says so."""

from __future__ import annotations

import re

from ..errors import in_one_line

__all__ = ["reason"]

# OpenVINO's messages begin with places in its C++ sources and with what it was about to do; the cause stands below.
_AROUND = re.compile(
    r"(.*\b(Exception from|failed at) \S+:\d+:"
    r"|FrontEnd API failed with \w+:"
    r"|Model wasn't fully converted\..*"
    r"|While validating .*"
    r"|Node .* of type .*"
    r"|-- .* with a message:"
    r"|Summary:)"
)
# ONNX Runtime's begin with its name, a number and what kind of error that is.
_ONNX_RUNTIME = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")


def reason(error: BaseException) -> str:
    """Return the first line of ``error`` that says what is wrong, without its full stop; its kind if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not _AROUND.fullmatch(line)]
    # An operator that OpenVINO does not know is said last, after what fails for want of its output.
    unknown = [line for line in telling if line.startswith("-- No conversion rule found")]
    line = next(iter(unknown or telling or lines), type(error).__name__)
    return in_one_line(_ONNX_RUNTIME.sub("", line).removeprefix("-- ").rstrip("."))
