"""A gRPC service and its client, which know nothing of what is between them.

usage: grpc_peer.py serve
       grpc_peer.py call ADDRESS CA_FILE

`serve` prints the port it listens on, without TLS. `call` goes through every kind of call over TLS, as
h5.example.com, and prints "all is well".
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVICE = "demo.Greeter"


def unary(request, context):
    context.set_trailing_metadata((("x-trailer", "behind"), ("x-bytes-bin", b"\x00\xff")))
    return request[::-1]


def fails(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "没有这样的事")


def many(request, context):
    for number in range(int(request)):
        yield b"%d" % number * 1000


def sums(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def chat(requests, context):
    for request in requests:
        yield b"re: " + request


def whoami(request, context):
    known = dict(context.invocation_metadata())
    return known.get("x-wechat-openid", "nobody").encode()


def serve():
    server = grpc.server(ThreadPoolExecutor(8))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fails": grpc.unary_unary_rpc_method_handler(fails),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Sums": grpc.stream_unary_rpc_method_handler(sums),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "WhoAmI": grpc.unary_unary_rpc_method_handler(whoami),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def call(address, ca):
    with open(ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    options = [("grpc.ssl_target_name_override", "h5.example.com"), ("grpc.default_authority", "h5.example.com")]
    channel = grpc.secure_channel(address, credentials, options)
    at = lambda name: f"/{SERVICE}/{name}"

    answer, done = channel.unary_unary(at("Unary")).with_call(b"abc", timeout=10)
    assert answer == b"cba", answer
    trailing = dict(done.trailing_metadata())
    assert trailing["x-trailer"] == "behind" and trailing["x-bytes-bin"] == b"\x00\xff", trailing

    try:
        channel.unary_unary(at("Fails"))(b"", timeout=10)
        raise AssertionError("it did not fail")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "没有这样的事", error.details()

    answers = list(channel.unary_stream(at("Many"))(b"2000", timeout=20))
    assert len(answers) == 2000 and answers[1999] == b"1999" * 1000, len(answers)

    answer = channel.stream_unary(at("Sums"))((b"x" * 10_000 for _ in range(300)), timeout=20)
    assert answer == b"3000000", answer

    # Each is sent when the answer to the one before has come.
    came, turn = [], threading.Semaphore(1)

    def talk():
        for number in range(100):
            turn.acquire()
            yield b"%d" % number

    for answer in channel.stream_stream(at("Chat"))(talk(), timeout=20):
        came.append(answer)
        turn.release()
    assert came == [b"re: %d" % number for number in range(100)], came

    forged = (("x-wechat-openid", "forged"),)
    assert channel.unary_unary(at("WhoAmI"))(b"", timeout=10, metadata=forged) == b"nobody"
    print("all is well")


if sys.argv[1] == "serve":
    serve()
else:
    call(*sys.argv[2:])
