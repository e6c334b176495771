"""The pipeline as a picture: the steps of dvc.yaml in layers, an arrow where one reads what another wrote."""

import re
from collections.abc import Mapping
from functools import reduce
from typing import Any
from xml.sax.saxutils import escape

import networkx as nx

NODE, GAP = (148, 46), (62, 22)  # of a box and between boxes, in SVG units


def notebook(command: str) -> str:
    """Stem of the notebook that a step's command runs, "" when it runs none."""
    found = re.search(r"notebooks/([\w-]+)\.ipynb", command)
    return found[1] if found else ""


def _listed(step: Mapping[str, Any], *kinds: str) -> list[str]:
    """Paths under these keys of a step, options dropped."""
    entries = [entry for kind in kinds for entry in step.get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def _runs(step: Mapping[str, Any], params: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(item, definition) of a step; one for each item of its `foreach`, whose name is put in."""
    if "foreach" not in step:
        return [("", step)]
    items = step["foreach"]
    if isinstance(items, str):  # ${group.key} of params.yaml
        items = reduce(lambda tree, key: tree[key], items.strip("${}").split("."), params)
    runs = []
    for item in items:
        named = {
            key: [re.sub(r"\$\{(item|key)\}", str(item), path) for path in _listed(step["do"], key)]
            for key in ("deps", "outs", "metrics", "plots")
        }
        command = re.sub(r"\$\{(item|key)\}", str(item), step["do"]["cmd"])
        runs.append((str(item), {"cmd": command, **named}))
    return runs


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def graph(pipeline: Mapping[str, Any], params: Mapping[str, Any]) -> nx.DiGraph:
    """Steps of a pipeline; an edge a -> b where b depends on an output of a.

    pipeline  the content of dvc.yaml
    params    that of params.yaml, for `foreach: ${group.key}`
    Node attributes: notebook (its stem), items (of a foreach, else empty), copies (stems of the executed
    notebooks, as run.py names them), layer (longest way from a start).
    Edges that follow from others are left out. Raises networkx.NetworkXUnfeasible when steps form a circle.
    """
    runs = {name: _runs(step, params) for name, step in pipeline["stages"].items()}
    found = nx.DiGraph()
    for name, parts in runs.items():
        items = [item for item, _ in parts if item]
        stem = notebook(parts[0][1]["cmd"])
        copies = [".".join([stem, *re.findall(r"--set \w+=(\S+)", run["cmd"])]) for _, run in parts]
        found.add_node(name, notebook=stem, items=items, copies=copies)
    made = [(name, out) for name, parts in runs.items() for _, run in parts
            for out in _listed(run, "outs", "metrics", "plots")]  # fmt: skip
    for name, parts in runs.items():
        deps = {dep for _, run in parts for dep in _listed(run, "deps")}
        for maker, out in made:
            if maker != name and any(_within(dep, out) or _within(out, dep) for dep in deps):
                found.add_edge(maker, name)
    for layer, names in enumerate(nx.topological_generations(found)):
        for name in names:
            found.nodes[name]["layer"] = layer
    kept = nx.transitive_reduction(found).edges
    reduced = nx.DiGraph()
    reduced.add_nodes_from(found.nodes(data=True))
    reduced.add_edges_from((a, b) for a in found for b in found if (a, b) in kept)  # in the order of dvc.yaml
    return reduced


def _with_waypoints(steps: nx.DiGraph) -> nx.DiGraph:
    """The graph with a waypoint (first, second, layer) where an edge passes a layer: no box is crossed."""
    drawn = nx.DiGraph()
    drawn.add_nodes_from(steps.nodes(data=True))
    for first, second in steps.edges:
        between = range(steps.nodes[first]["layer"] + 1, steps.nodes[second]["layer"])
        points = [(first, second, layer) for layer in between]
        drawn.add_nodes_from((point, {"layer": point[2]}) for point in points)
        nx.add_path(drawn, [first, *points, second])
    return drawn


def _rows(drawn: nx.DiGraph) -> dict[Any, float]:
    """Row of each step and waypoint: in order of the mean row of what it comes from, layers centred."""
    place: dict[Any, float] = {}
    layers = [list(names) for names in nx.topological_generations(drawn)]
    tallest = max(map(len, layers))
    for names in layers:
        before = {name: [place[other] for other in drawn.predecessors(name)] for name in names}
        names.sort(key=lambda name: sum(before[name]) / len(before[name]) if before[name] else 0)
        first = (tallest - len(names)) / 2
        place |= {name: first + row for row, name in enumerate(names)}
    return place


def svg(steps: nx.DiGraph, links: Mapping[str, str]) -> str:
    """The graph as inline SVG that takes its colours from the page (classes pg-node, pg-edge, pg-small).

    links  step -> address of its executed notebook, for those that have one
    """
    drawn = _with_waypoints(steps)
    rows = _rows(drawn)
    size = (NODE[0] + GAP[0], NODE[1] + GAP[1])
    at = {name: (layer * size[0] + 2, rows[name] * size[1] + 2) for name, layer in drawn.nodes(data="layer")}
    width, height = (max(place[k] for place in at.values()) + NODE[k] + 2 for k in (0, 1))
    parts = []
    for first, second in drawn.edges:
        (x1, y1), (x2, y2) = at[first], at[second]
        x1, y1, y2 = x1 + NODE[0], y1 + NODE[1] / 2, y2 + NODE[1] / 2
        ends = second in steps
        curve = f"M{x1:g} {y1:g} C{x1 + 30:g} {y1:g} {x2 - 36:g} {y2:g} {x2 - 3 * ends:g} {y2:g}"
        through = "" if ends else f" h{NODE[0]}"  # straight on through the place of the waypoint
        head = ' marker-end="url(#pg-head)"' if ends else ""
        parts.append(f'<path class="pg-edge"{head} d="{curve}{through}"/>')
    for name, node in steps.nodes(data=True):
        x, y = at[name]
        more = f" × {len(node['items'])}" if node["items"] else ""
        middle = x + NODE[0] / 2
        box = (
            f'<rect class="pg-node" x="{x:g}" y="{y:g}" width="{NODE[0]}" height="{NODE[1]}" rx="7"/>'
            f'<text x="{middle:g}" y="{y + 20:g}">{escape(name + more)}</text>'
            f'<text class="pg-small" x="{middle:g}" y="{y + 36:g}">{escape(node["notebook"])}</text>'
        )
        link = links.get(name)
        parts.append(f'<a href="{escape(link)}">{box}</a>' if link else f"<g>{box}</g>")
    return (
        f'<svg class="pg" viewBox="0 0 {width:g} {height:g}" role="group" aria-labelledby="pg-title">'
        f'<title id="pg-title">Pipeline of {len(steps)} steps; the table below has them in words</title>'
        '<defs><marker id="pg-head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="pg-head" d="M0 0 L8 4 L0 8 z"/></marker></defs>'
        + "".join(parts)
        + "</svg>"
    )
