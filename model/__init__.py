"""CMA-CLIP: configuration, preprocessing, network, bundle and export.

Import the submodules by name: a serving step needs `model.config`, `model.preprocess` and
`model.tasks` only, none of which imports torch.
"""
