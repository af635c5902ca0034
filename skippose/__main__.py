"""Runs a script with skippose imported first.

    python -m skippose SCRIPT [ARGUMENTS...]

Scripts of mmpose that import ``mmpose.apis`` before they read a config fail where mmdet or the
compiled operators of mmcv are absent: a config's ``custom_imports`` comes too late for them (see
:mod:`skippose.compat`). Otherwise the script runs as ``python SCRIPT`` would run it.
"""

import os
import runpy
import sys


def main() -> None:
    """Runs the script that the command line names.

    Raises:
        SystemExit: no script is given (status 2), or the script ends with one.
    """
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        asked = len(sys.argv) > 1
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        raise SystemExit(0 if asked else 2)
    script = sys.argv[1]
    if not os.path.isfile(script):
        raise SystemExit(f"python -m skippose: there is no script {script}")
    sys.argv = sys.argv[1:]
    # As python does it: what lies beside the script can be imported.
    sys.path.insert(0, os.path.dirname(os.path.realpath(script)))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
