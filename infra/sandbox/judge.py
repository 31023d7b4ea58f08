"""Verdicts, decided outside the box from what was seen of a run. Pure: the same report is judged alike for ever."""

import signal
from collections.abc import Callable, Sequence

from infra.sandbox import wire
from infra.sandbox.messages import Report, Request
from infra.sandbox.suite import Judgement
from infra.sandbox.wire import Malformed, Plain
from schemas.events import Evidence, Outcome, TestResult, Verdict

Results = Callable[[Sequence[Plain]], tuple[TestResult, ...]]


class Unusable(Exception):
    """What the candidate told says that its files cannot be imported or collected, and why."""


def judge(request: Request, report: Report, results: Results) -> Judgement:
    """First how the run ended, then what was told: `results` reads that, and raises Unusable or Malformed."""
    ending = _ending(request, report)
    if ending is not None:
        return _judgement(*ending, report)
    try:
        told = _complete(report)
        found = results(told)
    except Unusable as problem:
        return _judgement(Verdict.ERROR, str(problem), report)
    except MemoryError:
        return _judgement(Verdict.OOM, f"used more than {request.memory_bytes} bytes of memory", report)
    except Malformed as problem:
        return _judgement(*_untold(report, str(problem)), report)
    if report.exit_code != 0:
        return _judgement(Verdict.TAMPERED, f"ended with exit code {report.exit_code} after all was told", report)
    passed = all(each.outcome is Outcome.PASSED for each in found)
    return Judgement(
        verdict=Verdict.PASSED if passed else Verdict.FAILED, results=found, cause="", evidence=evidence(report)
    )


def nobody(cause: str) -> Judgement:
    """The machine's fault, or the suite's own."""
    return Judgement(verdict=Verdict.INVALID_INFRA, results=(), cause=cause, evidence=Evidence())


def refused(cause: str) -> Judgement:
    """A rebuild whose files cannot even be laid out."""
    return Judgement(verdict=Verdict.ERROR, results=(), cause=cause, evidence=Evidence())


def evidence(report: Report) -> Evidence:
    """What was seen from outside."""
    return Evidence(
        cpu_seconds=report.cpu_seconds,
        wall_seconds=report.wall_seconds,
        peak_memory_bytes=report.peak_bytes,
        exit_code=report.exit_code,
        signal=report.signal,
        output_tail=report.output.decode("utf-8", "replace"),
    )


def _judgement(verdict: Verdict, cause: str, report: Report) -> Judgement:
    return Judgement(verdict=verdict, results=(), cause=cause, evidence=evidence(report))


def _ending(request: Request, report: Report) -> tuple[Verdict, str] | None:
    """The verdict that the manner of its end alone decides; None for a process that left by itself."""
    used_cpu = report.cpu_seconds >= request.cpu_seconds
    if report.fault:
        return Verdict.INVALID_INFRA, report.fault
    if report.out_of_memory:
        return Verdict.OOM, f"its processes together used more than {request.memory_bytes} bytes of memory"
    if report.out_of_wall and not used_cpu:
        return Verdict.INVALID_INFRA, f"still running after {request.wall_seconds:g} s, with CPU time left"
    if report.out_of_wall or report.signal == signal.SIGXCPU or (used_cpu and report.signal == signal.SIGKILL):
        return Verdict.TIMEOUT, f"used {request.cpu_seconds} s of CPU time"
    if report.signal == signal.SIGKILL and report.host_out_of_memory:
        return Verdict.INVALID_INFRA, "ended while the host was out of memory"
    if report.signal is not None:
        return Verdict.KILLED, f"ended by {_name(report.signal)}"
    return None


def _complete(report: Report) -> list[Plain]:
    """All that was told before the end marker, which must stand last and once."""
    if report.stream_cut:
        raise Malformed("more was told than any suite has to tell")
    told = wire.unframe(report.stream)
    if ("end",) not in told:
        raise Malformed("it ended before all was told")
    if told[-1] != ("end",) or told.count(("end",)) != 1:
        raise Malformed("something was told after the end")
    told.pop()
    if told and told[-1] == ("exhausted",):
        raise MemoryError
    return told


def _untold(report: Report, why: str) -> tuple[Verdict, str]:
    """A process that left with an error, its word not given, has failed; one that claims success has lied."""
    if report.exit_code == 0 or wire.frame(("end",)) in report.stream:
        return Verdict.TAMPERED, why
    return Verdict.ERROR, f"ended itself with exit code {report.exit_code}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
