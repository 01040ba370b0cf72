# The flakes in README.md, each evaluated with the inputs of this one.
{
  home-manager,
  lib,
  nixpkgs,
  pkgs,
  self,
}:
let
  blocks = map (block: lib.head (lib.splitString "\n```" block)) (
    lib.tail (lib.splitString "\n```nix\n" (builtins.readFile ../../README.md))
  );
  flakes = map (
    text:
    import (builtins.toFile "flake.nix" (lib.replaceStrings [ "./configuration.nix" ] [ "{ }" ] text))
  ) blocks;

  inherit (import ../../flake.nix) inputs;
  configurations = lib.concatMap (
    flake:
    let
      outputs = flake.outputs {
        inherit home-manager nixpkgs;
        claude-cellar = self;
      };
    in
    assert flake.inputs.nixpkgs == inputs.nixpkgs;
    assert flake.inputs.home-manager or inputs.home-manager == inputs.home-manager;
    lib.attrValues (outputs.homeConfigurations or { })
    ++ lib.attrValues (outputs.nixosConfigurations or { })
  ) flakes;

  declared = map ({ config, ... }: config.systemd.user.services ? claude-cellar) configurations;
in
assert lib.assertMsg (
  declared == [
    true
    true
  ]
) "README.md should have one home-manager and one NixOS configuration, each with the service";
pkgs.runCommand "readme" { } "touch $out"
