{ self }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.claude-cellar;
  service = import ./service.nix { inherit lib pkgs self; };
  environment = service.environment cfg;
  unit = service.unit cfg.package environment;
in
{
  options.services.claude-cellar = service.options {
    directory = lib.types.strMatching "(/|%h/).*";
    home = "%h";
    note = " `%h` is the home directory of the user, `%u` the name, `%%` a percent sign.";
  };

  config = lib.mkIf cfg.enable {
    programs.fuse.enable = lib.mkDefault true;

    environment = {
      systemPackages = [ cfg.package ];
      # What is run by hand must find the same store.
      sessionVariables = lib.mapAttrs (
        _: lib.replaceStrings [ "%h" "%u" "%%" ] [ "$HOME" "$USER" "%" ]
      ) environment;
    };

    systemd.user.services.claude-cellar = {
      description = unit.Unit.Description;
      unitConfig = removeAttrs unit.Unit [ "Description" ] // {
        # Not for those who have never run Claude Code.
        ConditionPathIsDirectory = "%h/.claude";
      };
      # Its PATH is one of the variables, and begins with the wrappers.
      enableDefaultPath = false;
      serviceConfig = unit.Service;
      wantedBy = unit.Install.WantedBy;
      # A switch must not unmount under a live session.
      restartIfChanged = false;
    };
  };
}
