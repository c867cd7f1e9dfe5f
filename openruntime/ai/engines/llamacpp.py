"""The process that holds a GGUF: llama.cpp with its own server, on a socket in a folder that only this user can enter. Started by `Engine`."""

import threading

import xllamacpp

from openruntime.ai.engines.host import Host

ERRORS = 1  # of llama.cpp's verbosity


def main() -> None:
    host = Host()
    settings = host.settings
    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.hostnames = [f"{settings['folder']}/engine.sock"]
    params.model_alias = {"m"}  # stands in every piece
    params.n_parallel = settings["parallel"]
    params.n_ctx = settings["context"] * settings["parallel"]
    params.n_batch = params.n_ubatch = settings["batch"]
    params.n_gpu_layers = settings["gpu_layers"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.cache_ram_mib = settings["cache"]
    if settings["pooling"]:
        params.embedding = params.kv_unified = True  # else texts of unlike lengths are read in steps, and the longer one's vector is of its end
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{settings['pooling'].upper()}")
    params.fit_params = False  # what was asked for, or an error that says what there is no room for
    params.ui = params.endpoint_slots = False
    params.verbosity = ERRORS
    params.sse_ping_interval = -1
    try:
        server = xllamacpp.Server(params)
    except Exception as error:
        host.refuse(f"{settings['path']} cannot be loaded by llama.cpp: {error}")
    host.ready(address=server.listening_address)
    threading.Event().wait()  # the server's threads work; the host ends the process


if __name__ == "__main__":
    main()
