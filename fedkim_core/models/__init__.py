"""The foundation model, the extractor, and what joins them."""

import logging

# Imported by peft wherever it is installed: it would then say that a kernel from the network is
# missing and, in 8 bits, for every layer that inputs go through float16.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
