"""Converts a published PyTorch file to a checkpoint, completely or not at all.

python convert_torch_weights.py litv2_s.pth weights/litv2_s

The code is in `litv2_jax/convert_torch_weights.py`, which the package also installs as
`litv2-convert`.
"""

from litv2_jax.convert_torch_weights import main

if __name__ == "__main__":
    main()
