#!/bin/sh
# Run by snakemake in the conda environment of fedbound.yaml, once it is made, in the folder that snakemake works in.
set -eu
[ -f envs/constraints.txt ] && [ -f pyproject.toml ] || {
  echo "start snakemake in the repository's folder (without --directory): the conda environment installs fedbound from it" >&2
  exit 1
}
torch=$(grep '^torch==' envs/constraints.txt)
if [ -n "${TORCH_INDEX:-}" ]; then
  python -m pip install "$torch" --index-url "$TORCH_INDEX"
else
  python -m pip install "$torch" -c envs/constraints.txt
fi
python -m pip install -c envs/constraints.txt -e ".[workflow,train,privacy,report,codecs]"
