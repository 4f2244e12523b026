"""The network and its inputs: configuration, preprocessing, tasks, towers, attention, heads and the bundle on disk.

Import the submodules by name: a serving step needs `model.config`, `model.preprocess` and `model.tasks` only, none of
which imports torch.
"""
