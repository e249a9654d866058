"""The weights that torch.nn gives a recurrent layer."""


def torch_shapes(gates: int, hidden_size: int, input_size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer by torch's names, in its order: gates stacked by rows, two bias vectors."""
    rows = gates * hidden_size
    return {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, hidden_size),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
    }
