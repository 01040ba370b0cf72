# A machine whose user alice has the service from home-manager, a module of NixOS there. The steps are those of
# tests/systemd/scenario.sh.
{
  home-manager,
  pkgs,
  self,
  ...
}:
let
  settings = (import ./settings.nix).home-manager;
in
pkgs.testers.runNixOSTest {
  name = "claude-cellar-home-manager";

  nodes.machine =
    { lib, ... }:
    {
      imports = [
        home-manager.nixosModules.home-manager
        ./machine.nix
      ];

      programs.fuse.enable = true;

      home-manager = {
        useGlobalPkgs = true;
        users.alice = {
          imports = [ self.homeManagerModules.default ];
          home.stateVersion = "26.05";
          # For its variables.
          programs.bash.enable = true;
          services.claude-cellar = settings;
          programs.agentfs = {
            enable = true;
            claudeCodeHooks = true;
          };
        };
      };

      specialisation =
        lib.mapAttrs
          (_: changes: {
            configuration.home-manager.users.alice.services.claude-cellar = lib.mapAttrs (
              _: lib.mkForce
            ) changes;
          })
          {
            changed.sealAfter = 2;
            disabled.enable = false;
          };
    };

  testScript = ''
    STORE = "${settings.storeDir}"
  ''
  + builtins.readFile ./machine.py
  + builtins.readFile ./home-manager.py;
}
