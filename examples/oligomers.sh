#!/bin/sh
# Make oligomers, learn their gap with DiffPool on a few of them and on all, predict with chemprop.
# Usage: examples/oligomers.sh [FOLDER [HOW_MANY [EPOCHS]]]
set -eu
folder=${1:-oligomers}
number=${2:-600}
epochs=${3:-15}

mkdir -p "$folder"
tritonpool demo-data -n "$number" --seed 0 -o "$folder/all.csv"
tritonpool demo-data -n 20 --seed 1 -o "$folder/new.csv"

# A quarter of the training part, then all of it; validation and test parts are the same.
quarter=$((number / 5))
for size in "$quarter" all; do
  set --
  [ "$size" = all ] || set -- --train-size "$size"
  tritonpool train -q --data-path "$folder/all.csv" --output-dir "$folder/train-$size" \
    --smiles-columns smiles --target-columns gap --metrics rmse r2 --epochs "$epochs" \
    --message-hidden-dim 64 --ffn-hidden-dim 64 --aggregation mean --diffpool-ratio 0.25 \
    --pytorch-seed 0 "$@"
done

# Nothing of ours on the command line: chemprop reads the model by itself.
chemprop predict -q --test-path "$folder/new.csv" --smiles-columns smiles \
  --model-paths "$folder/train-all" --output "$folder/predicted.csv"
echo "Predicted gaps in eV: $folder/predicted.csv"
