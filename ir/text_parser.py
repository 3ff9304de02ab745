"""Reads the text form (see `text`), one method a grammar rule, and builds the graph as it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from .program import Origin, Program, Region, Stage
from .signature import Parameter, Signature, TensorSpec, output_names
from .structure import Structure
from .text_reader import Reader
from .text_tokens import Token
from .text_values import default_tensor, find_op, show_type


def parse_program(text: str, weights: Mapping[str, torch.Tensor] | None = None) -> Program:
    """The Program a text stands for; `weights` override the declared values and must fit the declarations."""
    return _Parser(text, weights or {}).program()


class _Parser(Reader):
    """Recursive descent over the tokens; builds the graph as it reads."""

    def __init__(self, text: str, given: Mapping[str, torch.Tensor]) -> None:
        super().__init__(text)
        self.given = given
        self.weights: dict[str, torch.Tensor] = {}
        self.regions: dict[str, Region] = {}
        self.graph = fx.Graph()
        self.values: dict[str, fx.Node] = {}
        self.readers: dict[str, fx.Node] = {}

    # program

    def program(self) -> Program:
        """program [name] (inputs) [stage] { weights, statements, return }."""
        self.expect("program")
        name = self.name() if self.token.kind in ("word", "string") else "model"
        self.expect("(")
        inputs: list[TensorSpec] = []
        tree, parameters = self.inputs(inputs)
        stage = Stage.CAPTURED
        if self.token.kind == "word":
            word = self.take()
            if word.text.upper() not in Stage.__members__:
                self.fail(f"unknown stage {word.text}", word)
            stage = Stage[word.text.upper()]
        self.expect("{")
        while self.token.kind == "weight":
            self.declaration()
        self.make_readers()
        while self.token.kind == "value":
            self.statement()
        signature = self.outputs(tuple(inputs), tree, parameters)
        self.expect("}")
        if self.token.kind != "end":
            self.fail("text after the program's end")
        return Program(self.graph, self.weights, signature, stage, name, self.regions)

    def inputs(self, specs: list[TensorSpec]) -> tuple[Structure, tuple[Parameter, ...]]:
        """Trees by position, then `name=tree`, up to the closing parenthesis."""
        args: list[Structure] = []
        kwargs: dict[str, Structure] = {}
        parameters: list[Parameter] = []
        for _ in self.until(")"):
            first = len(specs)
            if self.token.kind == "word" and self.peek().text == "=":
                key = self.take().text
                self.expect("=")
                kwargs[key] = self.tree(lambda: self.input_leaf(specs))
                parameters.append(Parameter(key, "keyword"))
            else:
                args.append(self.tree(lambda: self.input_leaf(specs)))
                stem = specs[first].name.split(".")[0] if len(specs) > first else f"arg{len(args) - 1}"
                parameters.append(Parameter(stem))
        keys = Structure("dict", tuple(kwargs.values()), tuple(kwargs))
        return Structure("tuple", (Structure("tuple", tuple(args)), keys)), tuple(parameters)

    def input_leaf(self, specs: list[TensorSpec]) -> None:
        """%name ["name of the input"]: type."""
        word = self.take("value")
        name = self.string() if self.token.kind == "string" else word.text[1:]
        self.expect(":")
        dtype, shape = self.tensor_type()
        specs.append(TensorSpec(name, str(dtype).removeprefix("torch."), tuple(shape)))
        node = self.define(self.graph, self.values, word, "placeholder", word.text[1:], (), {})
        node.meta["val"] = self.fake(dtype, shape)

    def outputs(self, inputs: tuple[TensorSpec, ...], tree: Structure, parameters: tuple[Parameter, ...]) -> Signature:
        """Return tree: the last line of a program."""
        self.expect("return")
        nodes: list[fx.Node] = []
        names: list[str | None] = []

        def leaf() -> None:
            nodes.append(self.operand_node())
            names.append(self.string() if self.token.kind == "string" else None)

        output_tree = self.tree(leaf)
        defaults = output_names(output_tree)
        values = [node.meta["val"] for node in nodes]
        specs = tuple(
            TensorSpec(name or default, str(value.dtype).removeprefix("torch."), tuple(value.shape))
            for name, default, value in zip(names, defaults, values, strict=True)
        )
        output = self.graph.output(tuple(nodes))
        output.meta.update(val=tuple(values), origins=())
        return Signature(inputs, specs, tree, output_tree, parameters)

    # constants

    def declaration(self) -> None:
        """@name: type [= values | random(seed) | positive(seed)]."""
        word = self.take("weight")
        name = self.weight_name(word)
        if name in self.weights:
            self.fail(f"@{name} is declared twice", word)
        self.expect(":")
        dtype, shape = self.tensor_type()
        tensor: torch.Tensor | None = default_tensor(name, dtype, shape)
        if self.at("="):
            self.take()
            tensor = self.tensor_values(dtype, shape)
        if tensor is None:
            self.fail(f"the values of @{name} are not {show_type(self.fake(dtype, shape))}", word)
        given = self.given.get(name, tensor)
        if given.dtype != dtype or list(given.shape) != shape:
            self.fail(f"@{name} was given {show_type(given)}", word)
        self.weights[name] = given

    def make_readers(self) -> None:
        """One `get_attr` for each constant, ahead of all calls."""
        for name, tensor in self.weights.items():
            node = self.graph.create_node("get_attr", name)
            node.meta.update(val=self.fakes.of(tensor), origins=())
            self.readers[name] = node

    # statements

    def statement(self) -> None:
        """%name[: type] = call or region."""
        word = self.take("value")
        declared = self.declared_type()
        self.expect("=")
        node = self.region(word) if self.at("region") else self.call(self.graph, self.values, word)
        self.check_type(declared, node, word)

    def call(self, graph: fx.Graph, values: dict[str, fx.Node], word: Token) -> fx.Node:
        """op(arguments, name=argument)   # layers."""
        op_word = self.take("word")
        op = find_op(op_word.text)
        if op is None:
            self.fail(f"there is no op {op_word.text}", op_word)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        self.expect("(")
        for _ in self.until(")"):
            if self.token.kind == "word" and self.peek().text == "=":
                key = self.take().text
                self.expect("=")
                kwargs[key] = self.operand(values)
            else:
                args.append(self.operand(values))
        node = self.define(graph, values, word, "call_function", op, tuple(args), kwargs)
        node.meta["origins"] = tuple(Origin(layer) for layer in self.layers())
        try:
            node.meta["val"] = self.fakes.run(op, node.args, node.kwargs)
        except Exception as error:
            self.fail(f"{op_word.text} does not take these arguments: {error}", op_word)
        return node

    def region(self, word: Token) -> fx.Node:
        """Region name: kind(%inner=operand, ...) [anchor %name] { statements, return }."""
        self.expect("region")
        name = self.name()
        self.expect(":")
        kind = self.take("word").text
        body = fx.Graph()
        inner: dict[str, fx.Node] = {}
        operands: list[fx.Node] = []
        self.expect("(")
        for _ in self.until(")"):
            parameter = self.take("value")
            self.expect("=")
            operands.append(self.operand_node())
            node = self.define(body, inner, parameter, "placeholder", parameter.text[1:], (), {})
            node.meta["val"] = operands[-1].meta["val"]
        anchor = None
        if self.at("anchor"):
            self.take()
            anchor = self.take("value")
        self.expect("{")
        layers = self.layers()
        while self.token.kind == "value":
            line = self.take()
            declared = self.declared_type()
            self.expect("=")
            self.check_type(declared, self.call(body, inner, line), line)
        self.expect("return")
        result = self.known(inner, self.take("value"))
        body.output(result)
        self.expect("}")
        if anchor is not None:
            self.known(inner, anchor)
        self.regions[name] = Region(name, kind, body, anchor.text[1:] if anchor else None, layers)
        node = self.define(self.graph, self.values, word, "call_module", name, tuple(operands), {})
        node.meta.update(val=result.meta["val"], origins=tuple(Origin(layer) for layer in layers))
        return node

    def define(
        self, graph: fx.Graph, values: dict[str, fx.Node], word: Token, op: str, target: Any, args: Any, kwargs: Any
    ) -> fx.Node:
        """A node under the name the text gives it."""
        name = word.text[1:]
        if name in values:
            self.fail(f"{word.text} is defined twice", word)
        values[name] = graph.create_node(op, target, args, kwargs, name=name)
        values[name].meta["origins"] = ()
        return values[name]

    def layers(self) -> tuple[str, ...]:
        """The layers in the comment behind the token just read."""
        return tuple(layer.strip() for layer in self.comment().split(",") if layer.strip())

    # operands

    def operand(self, values: dict[str, fx.Node]) -> Any:
        """A value, a constant, a list of operands, or a literal."""
        if self.token.kind == "value":
            return self.known(values, self.take())
        if self.token.kind == "weight":
            return self.operand_node()
        if not self.at("["):
            return self.literal()
        self.take()
        items: list[Any] = []
        for _ in self.until("]"):
            items.append(self.operand(values))
        return items

    def operand_node(self) -> fx.Node:
        """%value or @constant of the program."""
        if self.token.kind == "value":
            return self.known(self.values, self.take())
        word = self.take("weight")
        return self.known(self.readers, word, self.weight_name(word))

    def known(self, values: Mapping[str, fx.Node], word: Token, name: str | None = None) -> fx.Node:
        """The node of that name."""
        node = values.get(name or word.text[1:])
        return node if node is not None else self.fail(f"{word.text} is not defined", word)

    def check_type(self, declared: tuple[str, Token] | None, node: fx.Node, word: Token) -> None:
        """A type that is written must be the right one."""
        actual = show_type(node.meta["val"])
        if declared is not None and declared[0] != actual:
            self.fail(f"{word.text} is {actual}, not {declared[0]}", word)
