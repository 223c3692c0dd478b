"""Ask Linux for the CPU's AMX tiles; every Python process imports this, by quantop_amx.pth.

A process must ask before it uses them, or it ends with SIGILL. vLLM's own kernels use them without
asking; its worker processes are new interpreters, so that asking once in its command is not enough.
"""

import ctypes
import platform

SYS_ARCH_PRCTL = 158
ARCH_REQ_XCOMP_PERM = 0x1023
XFEATURE_XTILEDATA = 18

if platform.machine() == "x86_64":
    # On a CPU or kernel without AMX the call fails and nothing else happens.
    ctypes.CDLL(None).syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
