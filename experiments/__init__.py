"""Experiments, one folder per paper: each table is run by a command that its module opens with.

python -m ctrlgen.experiments.dflow.images --prior mnist --images 64
"""
