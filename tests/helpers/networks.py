"""A small network per token mixer and aggregator, for tests of networks in the code of other libraries."""

TWO_STAGES = {
    'channels': (8, 16),
    'stages': [{'depth': 1}, {'depth': 3, 'stride': 2, 'window': 1}],
}
NETWORKS = {
    'SS2D': {'style': 'sparx', 'token_mixer': {'type': 'SS2D'}, 'aggregator': {'type': 'DMCA'}},
    'VMamba': {'style': 'vmamba', 'token_mixer': {'type': 'SS2D'}, 'aggregator': {'type': 'Concat'}},
    'SSM': {'style': 'vmamba', 'token_mixer': {'type': 'SSM'}, 'aggregator': {'type': 'SRA'}},
    'BiSSM': {'style': 'vmamba', 'token_mixer': {'type': 'BiSSM'}, 'aggregator': {'type': 'NoAttention'}},
    'WindowAttention': {
        'style': 'swin',
        'token_mixer': {'type': 'WindowAttention', 'window_size': 3, 'num_heads': 2},
        'aggregator': {'type': 'SCA', 'own_tokens': True},
    },
}
