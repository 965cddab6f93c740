from __future__ import annotations

import socket
import threading

from reconciler.core import dns
from reconciler.world.names.asking import PORT, Resolver


def test_an_address_that_the_host_has_not_and_one_where_nobody_listens() -> None:
    assert not Resolver("192.0.2.1").is_here()
    assert Resolver("192.0.2.1").ask(["shop"]) == {}
    assert Resolver("127.0.91.1").is_here()
    assert Resolver("127.0.91.1").ask(["shop"]) == {}


def test_garbage_and_answers_to_other_questions_are_not_taken() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.92.1", PORT))

        def answer() -> None:
            question, asker = server.recvfrom(512)
            server.sendto(b"garbage", asker)
            server.sendto(bytes([question[0] ^ 1]) + question[1:], asker)

        thread = threading.Thread(target=answer)
        thread.start()
        assert Resolver("127.0.92.1").ask(["shop"]) == {}
        thread.join()


def test_a_question_is_what_the_server_sees() -> None:
    assert dns.question(7, "shop")[:2] == (7).to_bytes(2, "big")
