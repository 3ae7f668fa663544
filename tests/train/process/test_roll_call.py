"""The roll call: all learn who is there, and all learn who is not."""

import concurrent.futures
import socket
import time

import pytest

from model.errors import UserError
from train.process.cluster import Membership
from train.process.roll_call import missing_message, roll_call


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"127.0.0.1:{port}"


def call(members, timeout=20.0, delays=()):
    """What each process gets: the hosts, or the text of the error."""

    def one(member, delay):
        time.sleep(delay)
        try:
            hosts, connections = roll_call(member, timeout)
            for connection in connections.values():
                connection.close()
            return hosts
        except UserError as error:
            return str(error)

    delays = [*delays, *[0.0] * (len(members) - len(delays))]
    with concurrent.futures.ThreadPoolExecutor(len(members)) as threads:
        return list(threads.map(one, members, delays))


def test_all_come_in_any_order(address):
    hosts = [socket.gethostname()] * 3
    members = [Membership(address, 3, index) for index in range(3)]
    assert call(members, delays=[0.3, 0.0, 0.1]) == [hosts] * 3  # process 0 is the last
    assert call(members[::-1]) == [hosts] * 3  # the port is free again at once


def test_those_that_are_missing_are_named_to_all_that_came(address):
    began = time.monotonic()
    first, third = call([Membership(address, 4, 0), Membership(address, 4, 2)], timeout=1.0)
    assert first.startswith(f"processes 1, 3 of 4 did not come to {address} within 1 s")
    assert third == first
    assert time.monotonic() - began < 10


def test_process_0_is_missing(address):
    (answer,) = call([Membership(address, 2, 1)], timeout=0.5)
    assert answer.startswith(f"process 0 of 2 did not come to {address} within 0.5 s")


def test_many_missing_ones_are_cut_short():
    message = missing_message(list(range(1, 64)), Membership("a:1", 64, 0), 300)
    assert "processes 1, 2, 3" in message
    assert "20 and 43 more of 64" in message


def test_two_with_one_number_and_two_counts(address):
    answers = call(
        [Membership(address, 3, 0), Membership(address, 3, 1), Membership(address, 3, 1)], delays=[0, 0.2, 0.4]
    )
    assert all("two processes are number 1" in answer for answer in answers)
    answers = call([Membership(address, 2, 0), Membership(address, 3, 1)])
    assert all("started as one of 3, process 0 as one of 2" in answer for answer in answers)


def test_a_process_that_ended_while_it_waited_may_come_again(address):
    """Its first connection is closed when the last of the others comes."""

    def come_and_go():
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as connection:
            connection.sendall(b'{"index": 1, "count": 3, "host": "gone"}\n')
            time.sleep(0.2)

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(come_and_go)
        answers = call([Membership(address, 3, index) for index in (0, 2, 1)], delays=[0.0, 0.7, 1.2])
    assert answers == [[socket.gethostname()] * 3] * 3


def test_another_program_is_no_member(address):
    def knock():
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(knock)
        answers = call([Membership(address, 2, 0), Membership(address, 2, 1)], delays=[0.0, 0.6])
    assert answers == [[socket.gethostname()] * 2] * 2


def test_a_port_in_use(address):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen at port {port} .*take another port"):
            roll_call(Membership(f"127.0.0.1:{port}", 2, 0), 1.0)
