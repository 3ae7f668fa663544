"""Several calls of one command."""

import pytest

from tests.commands import answer_of, answers_on


@pytest.fixture(scope="session")
def call():
    """call(module, [arguments, ...], devices=None) -> [Answer, ...].

    In this process, which has the devices of the tests, or in a process with as many devices as are asked for.
    """

    def call(module, calls, devices=None):
        if devices is not None:
            return answers_on(devices, [(module, *arguments) for arguments in calls])
        return [answer_of(module, *arguments) for arguments in calls]

    return call
