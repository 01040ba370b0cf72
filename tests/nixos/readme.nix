# What README.md says of Nix: each flake in it is that of a file, which is evaluated with the inputs of this one, and each
# command has what it needs.
{
  home-manager,
  lib,
  nixpkgs,
  pkgs,
  self,
}:
let
  inherit (pkgs.stdenv.hostPlatform) system;
  inherit (import ../../flake.nix) inputs;

  text = builtins.readFile ../../README.md;
  blocks =
    language:
    map (block: lib.head (lib.splitString "\n```" block)) (
      lib.tail (lib.splitString "\n```${language}\n" text)
    );

  files = [
    ./readme/home-manager.nix
    ./readme/nixos.nix
  ];
  configurations = lib.concatMap (
    file:
    let
      flake = import file;
      outputs = flake.outputs {
        inherit home-manager nixpkgs;
        claude-cellar = self;
      };
    in
    assert flake.inputs.nixpkgs == inputs.nixpkgs;
    assert flake.inputs.home-manager or inputs.home-manager == inputs.home-manager;
    lib.attrValues (outputs.homeConfigurations or { } // outputs.nixosConfigurations or { })
  ) files;

  # What comes after these words does not matter.
  needs = {
    "nix run . " = self.apps.${system}.default.program;
    "nix profile install . " = self.packages.${system}.default.drvPath;
    "nix develop " = self.devShells.${system}.default.drvPath;
    "nix flake check " = lib.attrNames self.checks.${system};
  };
  commands = lib.filter (lib.hasPrefix "nix ") (lib.concatMap (lib.splitString "\n") (blocks "sh"));
  needed = map (
    command: lib.attrNames (lib.filterAttrs (prefix: _: lib.hasPrefix prefix command) needs)
  ) commands;
in
assert lib.assertMsg (
  map (block: block + "\n") (blocks "nix") == map builtins.readFile files
) "README.md should have the flakes of tests/nixos/readme, word for word";
assert lib.assertMsg (
  map ({ config, ... }: config.systemd.user.services ? claude-cellar) configurations == [
    true
    true
  ]
) "the flakes in README.md should be one for home-manager and one for NixOS, each with the service";
assert lib.assertMsg (
  lib.sort lib.lessThan (lib.concatLists needed) == lib.attrNames needs
  && lib.all (prefixes: prefixes != [ ]) needed
) "README.md should have each of ${toString (lib.attrNames needs)}, and has: ${toString commands}";
builtins.deepSeq needs (pkgs.runCommand "readme" { } "touch $out")
