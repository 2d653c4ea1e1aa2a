"""Write a net with its weights as ONNX, and prove that it computes the same.

The net for inference is derived from the text: data layers become inputs, losses their
activations, accuracies go. The ONNX file is run in ONNX Runtime and compared with netc's own
forward pass, output by output; what does not agree is not written.

example: netc export -model net.prototxt -weights net_iter_10000.caffemodel -output net.onnx
         netc export -model net.prototxt -weights net.caffemodel -output net.onnx -batch 1
         netc export -model net.prototxt -weights net.caffemodel -output fc7.onnx -outputs fc7,prob
"""

from __future__ import annotations

import argparse

from netc.cli import options


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    flag = parser.flag
    options.net_options(parser, phase="TEST")
    options.weights_options(parser, "to write")
    flag("output", metavar="FILE", needed=True, help="the ONNX file to write")
    flag(
        "outputs",
        type=options.names,
        default=(),
        metavar="A,B",
        help="blobs to give out, in place of the net's own outputs",
    )
    flag(
        "batch",
        type=options.batch,
        metavar="N|dynamic",
        help="batch size, dynamic to leave it open (default: open for a net that reads data, "
        "else as in the text)",
    )
    flag("opset", type=options.count, metavar="N", help="version of ONNX's operators (default 17)")
    options.shape_options(parser)
    flag(
        "backend",
        default="reference",
        metavar="NAME",
        help="whose forward pass to compare with (default reference)",
    )
    options.format_option(parser, "text", "json")
    options.python_option(parser)


def run(args: argparse.Namespace) -> int:
    """Export and prove."""
    from pathlib import Path

    from netc.backends import find_backend
    from netc.export.deliver import deliver, mismatch
    from netc.report.machine import to_json
    from netc.report.table import size
    from netc.weights import split_list

    options.require_weights(args)
    # Well-known layers have an ONNX form, their code has none.
    graph = options.graph_to_look_at(args, known=True)
    remarks = [f"note: {note}" for note in graph.notes]
    tell = remarks.append if args.format == "json" else print
    for note in remarks:
        if args.format == "text":
            print(note)
    proof = deliver(
        graph,
        split_list(args.weights) if args.weights else [],
        Path(args.output),
        find_backend(args.backend),
        outputs=args.outputs,
        opset=args.opset,
        batch=args.batch,
        fill=args.random_weights,
        tell=tell,
    )
    if args.format == "json":
        print(to_json(proof.as_dict() | {"remarks": remarks}))
    else:
        print(proof.table())
    if not proof.ok:
        raise mismatch(proof, Path(args.output))
    if args.format == "text":
        print(f"wrote {args.output} ({size(Path(args.output).stat().st_size)})")
    return 0
