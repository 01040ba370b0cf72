# A machine that has the service for all of its users. The steps are those of tests/systemd/scenario.sh.
{
  lib,
  pkgs,
  self,
  ...
}:
let
  settings = (import ./settings.nix).nixos;
in
pkgs.testers.runNixOSTest {
  name = "claude-cellar-nixos";

  nodes.machine = {
    imports = [
      self.nixosModules.default
      ./machine.nix
    ];

    services.claude-cellar = settings;

    # Has no use for the service.
    users.users.bob = {
      isNormalUser = true;
      uid = 1001;
    };
  };

  testScript = ''
    STORE = "${lib.replaceStrings [ "%h" ] [ "/home/alice" ] settings.storeDir}"
  ''
  + builtins.readFile ./machine.py
  + builtins.readFile ./nixos.py;
}
