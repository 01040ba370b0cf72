{ self }:
{
  config,
  lib,
  pkgs,
  ...
}@args:
let
  cfg = config.services.claude-cellar;
  service = import ../nixos-module/service.nix { inherit lib pkgs self; };
  environment = service.environment cfg;

  # The machine's, where home-manager is a module of NixOS.
  osConfig = args.osConfig or null;
in
{
  options.services.claude-cellar = service.options {
    directory = lib.types.externalPath;
    home = "/home/alice";
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      (lib.hm.assertions.assertPlatform "services.claude-cellar" pkgs lib.platforms.linux)
      {
        assertion = osConfig.programs.fuse.enable or true;
        message = "services.claude-cellar mounts with FUSE: set `programs.fuse.enable = true` in the NixOS configuration.";
      }
    ];

    home = {
      packages = [ cfg.package ];
      # What is run by hand must find the same store.
      sessionVariables = environment;
    };

    systemd.user.services.claude-cellar =
      let
        # Paths are taken as they are: nothing in them is a specifier.
        unit = service.unit cfg.package (lib.mapAttrs (_: lib.replaceStrings [ "%" ] [ "%%" ]) environment);
      in
      unit
      // {
        # A switch must not unmount under a live session: the new unit is used from its next start.
        Unit = unit.Unit // {
          X-SwitchMethod = "keep-old";
        };
      };
  };
}
