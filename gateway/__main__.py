"""`python -m gateway` is `faregate`."""

import sys

from gateway.cli import main

sys.exit(main())
