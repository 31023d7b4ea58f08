"""The workers as processes: `python -m consumers requirements | implement | run_tests | project | rebuild`."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from consumers import jobs, project
from infra import metrics, process, services, settings
from infra.blobs import Blobs
from infra.kafka import KafkaLog
from infra.log import Job
from infra.opening import opened_log
from infra.postgres import Database
from schemas.events import ApplicationRegistered, ImplementationWritten, SuiteRan


def main(arguments: list[str] | None = None) -> int:
    """Run one role until it is asked to stop."""
    parser = argparse.ArgumentParser(prog="iccm work", description=__doc__)
    parser.add_argument("role", choices=(*JOBS, "project", "rebuild"))
    parser.add_argument("--slot", type=int, help="slot number; the first free one by default")
    options = parser.parse_args(arguments)
    return process.run(lambda: _serve(options.role, options.slot, settings.read()))


def _serve(role: str, slot: int | None, chosen: settings.Settings) -> int:
    stop = process.stop_on_signals()
    found = services.endpoints(chosen)
    with opened_log(chosen, found, slot) as log:
        match role:
            case "project":
                project.project(log, Database(found.postgres, schema=chosen.namespace), stop=stop)
            case "rebuild":
                project.rebuild(log, Database(found.postgres, schema=chosen.namespace))
            case _:
                with JOBS[role](log, chosen) as job:
                    log.work(job, stop=stop)
                if role in metrics.COUNTED:
                    process.say(metrics.summary(role))
    return 0


@contextmanager
def _requirements(log: KafkaLog, chosen: settings.Settings) -> Iterator[Job]:
    from infra.lab.models import LabModel  # torch loads only in the roles that run models

    policy = LabModel("cet-d", adapters=Blobs(services.blobs_url(chosen)).get)
    yield _bound(jobs.requirements_job, log, policy=policy)


@contextmanager
def _implement(log: KafkaLog, _: settings.Settings) -> Iterator[Job]:
    from infra.lab.models import LabModel
    from infra.lab.programs import IMPLEMENTERS

    models = {model.name: model for model in map(LabModel, IMPLEMENTERS)}
    yield _bound(jobs.implement_job, log, models=models, answers=log.answers(ImplementationWritten))


@contextmanager
def _run_tests(log: KafkaLog, chosen: settings.Settings) -> Iterator[Job]:
    from infra.sandbox.open import open_sandbox

    sandbox = open_sandbox(chosen.sandbox)
    try:
        answers = log.answers(SuiteRan)
        yield _bound(jobs.run_tests_job, log, sandbox=sandbox, environment=sandbox.environment, answers=answers)
    finally:
        sandbox.close()


def _bound(job: Callable[..., Job], log: KafkaLog, **doors: object) -> Job:
    return job(application=log.refer(ApplicationRegistered), clock=process.clock, **doors)


# Each role's step with the doors it needs, open as long as the block.
JOBS: dict[str, Callable[[KafkaLog, settings.Settings], AbstractContextManager[Job]]] = {
    "requirements": _requirements,
    "implement": _implement,
    "run_tests": _run_tests,
}

if __name__ == "__main__":
    sys.exit(main())
