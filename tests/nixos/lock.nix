# That flake.lock is of the inputs in flake.nix, all of them and nothing else; for machines that cannot fetch them.
let
  inherit (import ../../flake.nix) inputs;
  lock = builtins.fromJSON (builtins.readFile ../../flake.lock);
  names = builtins.attrNames inputs;

  split = url: builtins.match "github:([^/]+)/([^/]+)/([^/]+)" url;
  original = input: {
    type = "github";
    owner = builtins.elemAt (split input.url) 0;
    repo = builtins.elemAt (split input.url) 1;
    ref = builtins.elemAt (split input.url) 2;
  };
  # Where it comes from, and how that is known to be what was locked.
  genuine =
    input: locked:
    removeAttrs locked [
      "lastModified"
      "narHash"
      "rev"
    ] == removeAttrs (original input) [ "ref" ]
    && builtins.isInt locked.lastModified
    && builtins.match "sha256-[A-Za-z0-9+/]{43}=" locked.narHash != null
    && builtins.match "[0-9a-f]{40}" locked.rev != null;

  wrong = builtins.filter (
    name:
    let
      input = inputs.${name};
      node = lock.nodes.${name};
      follows = builtins.mapAttrs (_: followed: [ followed.follows ]) (input.inputs or { });
    in
    !(node.original == original input && genuine input node.locked && node.inputs or { } == follows)
  ) names;
in
assert lock.version == 7 && lock.root == "root";
assert
  builtins.attrNames lock.nodes == builtins.sort (a: b: a < b) (names ++ [ "root" ])
  && builtins.attrNames lock.nodes.root.inputs == names;
if wrong == [ ] then
  "flake.lock is of flake.nix"
else
  throw "flake.lock is wrong on ${toString wrong}"
