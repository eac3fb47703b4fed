#!/usr/bin/env python3
"""Makes JSON schemas for `kubeconform -strict` out of what the modules of a release carry, so that charts are
validated without a network.

    schemas.py FOLDER --release 1.37.2=swagger.json [--release ...] [--crd crd.yaml ...]

For each release, FOLDER/v<release>-standalone-strict/ gets one file for each kind of its OpenAPI document and
for each kind that the custom resource definitions define. `kubeconform -strict -schema-location FOLDER
-kubernetes-version 1.37.2` then finds them all. A file stands alone: what it refers to is in its own
"definitions". Strict means what the API server does with strict field validation: a field that a type does not
have is an error.
"""
import argparse
import json
import pathlib
import shutil
import sys

DRAFT = "http://json-schema.org/draft-04/schema#"
PREFIX = "#/definitions/"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
# Written as one type, read as several.
OVERRIDES = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}
INTEGERS = {"int32": 32, "int64": 64}
# Keywords of a structural schema that mean the same in JSON Schema.
COPIED = ("enum", "format", "maxItems", "maxLength", "maxProperties", "maximum", "minItems", "minLength",
          "minProperties", "minimum", "exclusiveMaximum", "exclusiveMinimum", "multipleOf", "pattern", "required", "uniqueItems")


def nullable(schema):
    """The schema, or null: what the API server takes for a field that is not there."""
    if not schema or schema == {"type": "null"}:
        return schema
    kind = schema.get("type")
    if kind is None or "enum" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [*([kind] if isinstance(kind, str) else kind), "null"]}


def bounded(schema):
    """A number with the bounds of its format; other formats stay as they are."""
    bits = INTEGERS.get(schema.get("format")) if schema.get("type") == "integer" else None
    if bits is None:
        return schema
    result = {key: value for key, value in schema.items() if key != "format"}
    result.setdefault("minimum", -2 ** (bits - 1))
    result.setdefault("maximum", 2 ** (bits - 1) - 1)
    return result


def convert_type(schema):
    """A schema of the OpenAPI document (version 2) as a strict JSON schema, without descriptions."""
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}
    result = bounded({key: schema[key] for key in ("type", "format", "enum", "required") if key in schema})
    if result.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    if "items" in schema:
        result["items"] = convert_type(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = convert_type(schema["additionalProperties"])
    if "properties" in schema:
        required = schema.get("required", ())
        result["properties"] = {}
        for name, field in schema["properties"].items():
            converted = convert_type(field)
            result["properties"][name] = converted if name in required else nullable(converted)
        result.setdefault("additionalProperties", False)
    return result


def convert_definitions(definitions):
    return {name: OVERRIDES.get(name) or convert_type(schema) for name, schema in definitions.items()}


def convert_crd(schema, inside=False):
    """A structural schema of a custom resource definition as a strict JSON schema.

    `inside` is true below allOf, anyOf, oneOf and not: there fields are judged, not defined.
    """
    result = bounded({key: schema[key] for key in ("type", *COPIED) if key in schema})
    if schema.get("x-kubernetes-int-or-string"):
        result["type"] = ["string", "integer"]
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema and not schema.get("x-kubernetes-int-or-string"):
            result[key] = [convert_crd(part, True) for part in schema[key]]
    if "not" in schema:
        result["not"] = convert_crd(schema["not"], True)
    if "items" in schema:
        result["items"] = convert_crd(schema["items"], inside)
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = convert_crd(schema["additionalProperties"], inside)
    if "properties" in schema:
        result["properties"] = {name: convert_crd(field, inside) for name, field in schema["properties"].items()}
    opened = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema or inside
    if schema.get("type") == "object" and "properties" in schema and not opened:
        result["additionalProperties"] = False
    if schema.get("x-kubernetes-embedded-resource"):
        for name in ("apiVersion", "kind", "metadata"):
            result.setdefault("properties", {}).setdefault(name, {})
    return nullable(result) if schema.get("nullable") else result


def references(schema):
    """Names of the definitions that a schema refers to itself."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix(PREFIX)
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def reachable(schema, definitions):
    """The definitions that a schema refers to, directly or through others."""
    found, waiting = {}, list(references(schema))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = definitions[name]
            waiting.extend(references(definitions[name]))
    return found


def write(folder, group, version, kind, schema, definitions):
    """One kind under the name that kubeconform looks for."""
    if isinstance(schema.get("properties"), dict):
        properties = {**schema["properties"], "kind": {"type": "string", "enum": [kind]},
                      "apiVersion": {"type": "string", "enum": [f"{group}/{version}" if group else version]}}
        required = sorted({*schema.get("required", ()), "apiVersion", "kind"})
        schema = {**schema, "properties": properties, "required": required}
    schema = {"$schema": DRAFT, **schema}
    if inner := reachable(schema, definitions):
        schema["definitions"] = dict(sorted(inner.items()))
    parts = [kind, *([group.split(".")[0]] if group else []), version]
    path = folder / ("-".join(parts).lower() + ".json")
    path.write_text(json.dumps(schema, separators=(",", ":")) + "\n")


def read_crds(paths):
    """(group, version, kind, schema) of each version that the files define. Other documents are passed over."""
    import yaml  # only CRDs need it

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        """Takes a bare "=" and dates for what they are to Kubernetes: strings."""
    for tag in ("value", "timestamp"):
        Loader.add_constructor(f"tag:yaml.org,2002:{tag}", Loader.construct_yaml_str)
    found = []
    for path in paths:
        for document in yaml.load_all(pathlib.Path(path).read_text(), Loader):
            if not document or document.get("kind") != "CustomResourceDefinition":
                continue
            spec = document["spec"]
            for version in spec["versions"]:
                found.append((spec["group"], version["name"], spec["names"]["kind"],
                              version["schema"]["openAPIV3Schema"]))
    return found


def write_release(folder, swagger, crds):
    """All kinds of one release. Replaces what is there."""
    source = json.loads(pathlib.Path(swagger).read_text())["definitions"]
    definitions = convert_definitions(source)
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    kinds = 0
    for name, schema in source.items():
        for known in schema.get("x-kubernetes-group-version-kind", ()):
            write(new, known["group"], known["version"], known["kind"], definitions[name], definitions)
            kinds += 1
    for group, version, kind, schema in crds:
        converted = convert_crd(schema)
        converted["properties"]["metadata"] = {"$ref": PREFIX + OBJECT_META}
        write(new, group, version, kind, converted, definitions)
        kinds += 1
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return kinds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--release", action="append", default=[], metavar="VERSION=SWAGGER")
    parser.add_argument("--crd", action="append", default=[], metavar="FILE")
    arguments = parser.parse_args()
    crds = read_crds(arguments.crd)
    for release in arguments.release:
        version, separator, swagger = release.partition("=")
        if not separator:
            parser.error(f"--release {release}: not VERSION=SWAGGER")
        kinds = write_release(arguments.folder / f"v{version}-standalone-strict", swagger, crds)
        print(f"{version}: {kinds} kinds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
