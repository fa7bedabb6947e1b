"""The former name of tools/predict.py: ``python tools/demo.py IMAGE CONFIG CHECKPOINT``."""

import runpy
from pathlib import Path

if __name__ == '__main__':
    runpy.run_path(str(Path(__file__).with_name('predict.py')), run_name='__main__')
