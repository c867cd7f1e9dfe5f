"""Apple's GPUs as MLX finds them. On Linux MLX drives the processor, and is one more backend of `cpu:0`."""

from openruntime.runtimes.gpu import GPU, GPURuntimeManager


class MLXRuntimeManager(GPURuntimeManager):
    """Keeps workers for the GPUs that MLX drives (`metal:0`): with MLX, and with whatever else drives the same one. Their memory is the
    processor's too (`unified_memory`)."""

    def lists(self, gpu: GPU) -> bool:
        return "mlx" in gpu.indices
