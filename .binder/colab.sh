#!/usr/bin/env bash
# For Google Colab, which has PyTorch and a notebook server of its own: only what it lacks is added, in versions that
# suit what is there. Not yet tried on Colab. In a notebook's first cell:
#     !git clone --depth 1 https://github.com/OWNER/REPOSITORY && bash REPOSITORY/.binder/colab.sh
#     %cd REPOSITORY/notebooks
#     from google.colab import output; output.enable_custom_widget_manager()
# With --dry-run the command is printed only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=()
[[ "${1:-}" != --dry-run ]] || run=(echo)

"${run[@]}" python -m pip install --quiet -e '.[train]' 'anywidget>=0.9' 'ipyniivue>=2.4'
