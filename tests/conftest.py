"""For every test: what the machine under it must not decide."""

import os

# Some virtual machines report AMX and then stop a process that uses it ("Illegal instruction", in bfloat16 products).
# oneDNN reads this when torch is first imported; it caps, so that an older CPU is not asked for more than it has.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
