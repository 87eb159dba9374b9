import sys

from chronorec.cli import main

sys.exit(main())
