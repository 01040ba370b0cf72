# The units that the modules declare, compared with the expected ones; all when this is evaluated.
{
  home-manager,
  lib,
  nixpkgs,
  pkgs,
  self,
}:
let
  settings = import ./settings.nix;

  # Renders as the package's name.
  package = {
    type = "derivation";
    name = "claude-cellar";
    outPath = "@claude-cellar@";
    meta.mainProgram = "claude-cellar";
  };

  homeOf =
    config:
    home-manager.lib.homeManagerConfiguration {
      inherit pkgs;
      modules = [
        self.homeManagerModules.default
        {
          home = {
            username = "alice";
            homeDirectory = "/home/alice";
            stateVersion = "26.05";
          };
        }
        config
      ];
    };
  home = config: (homeOf { services.claude-cellar = config; }).config;

  machine =
    modules:
    (nixpkgs.lib.nixosSystem {
      inherit (pkgs.stdenv.hostPlatform) system;
      modules = [ self.nixosModules.default ] ++ modules;
    }).config;
  nixos = config: machine [ { services.claude-cellar = config; } ];

  # As home-manager and NixOS write it.
  render =
    unit:
    lib.generators.toINI { listsAsDuplicateKeys = true; } (
      lib.mapAttrs (_: lib.filterAttrs (_: value: value != null && value != [ ])) unit
    );
  homeUnit = config: render (home config).systemd.user.services.claude-cellar;
  nixosUnit =
    config:
    let
      unit = (nixos config).systemd.user.services.claude-cellar;
    in
    render {
      Unit = unit.unitConfig // {
        Description = unit.description;
      };
      Service = unit.serviceConfig // {
        Environment =
          lib.mapAttrsToList (name: value: "${name}=${value}") unit.environment
          ++ unit.serviceConfig.Environment;
      };
      Install.WantedBy = unit.wantedBy;
    };

  # All options; the directories are where no other test has them.
  everything = {
    inherit package;
    enable = true;
    storeDir = "/srv/store";
    mountDir = "/srv/projects";
    scratchDir = "/srv/scratch";
    maxFds = 4096;
    bundles = "compress";
    trashDays = 30;
    sealAfter = 3600;
    claudeBin = "/opt/claude";
    logLevel = "debug";
  };
  environment = {
    CLAUDE_CELLAR_STORE_DIR = "/srv/store";
    CLAUDE_CELLAR_MOUNT_DIR = "/srv/projects";
    CLAUDE_CELLAR_SCRATCH_DIR = "/srv/scratch";
    CLAUDE_CELLAR_MAX_FDS = "4096";
    CLAUDE_CELLAR_BUNDLES = "compress";
    CLAUDE_CELLAR_TRASH_DAYS = "30";
    CLAUDE_CELLAR_SEAL_AFTER = "3600";
    CLAUDE_CELLAR_CLAUDE_BIN = "/opt/claude";
    CLAUDE_CELLAR_LOG = "debug";
  };
  cellarVariables = lib.filterAttrs (name: _: lib.hasPrefix "CLAUDE_CELLAR_" name);
  assignments = lib.mapAttrsToList (name: value: "${name}=${value}");

  rejected = configure: config: !(builtins.tryEval (configure config)).success;

  failures = lib.runTests {
    testHomeManagerUnit = {
      expr = homeUnit (settings.home-manager // { inherit package; });
      expected = builtins.readFile ./home-manager.service;
    };
    testNixosUnit = {
      expr = nixosUnit (settings.nixos // { inherit package; });
      expected = builtins.readFile ./nixos.service;
    };

    testEveryOptionOfHomeManager = {
      expr = lib.tail (home everything).systemd.user.services.claude-cellar.Service.Environment;
      expected = assignments environment;
    };
    testEveryOptionOfNixos = {
      expr = lib.tail (nixos everything).systemd.user.services.claude-cellar.serviceConfig.Environment;
      expected = assignments environment;
    };
    testOptionsAreTheSame = {
      expr = [
        (lib.attrNames (home { }).services.claude-cellar)
        (lib.attrNames (nixos { }).services.claude-cellar)
      ];
      expected = [
        (lib.attrNames everything)
        (lib.attrNames everything)
      ];
    };

    # No variable for what is not set, so that the program's own defaults hold.
    testDefaultsOfHomeManager = {
      expr = lib.length (home { enable = true; }).systemd.user.services.claude-cellar.Service.Environment;
      expected = 1;
    };
    testDefaultsOfNixos = {
      expr =
        lib.length
          (nixos { enable = true; }).systemd.user.services.claude-cellar.serviceConfig.Environment;
      expected = 1;
    };

    # What is run by hand is told the same.
    testShellOfHomeManager = {
      expr = cellarVariables (home everything).home.sessionVariables;
      expected = environment;
    };
    testShellOfNixos = {
      expr =
        cellarVariables
          (nixos (everything // { storeDir = "%h/of %u"; })).environment.sessionVariables;
      expected = environment // {
        CLAUDE_CELLAR_STORE_DIR = "$HOME/of $USER";
      };
    };

    testPackageOfHomeManager = {
      expr =
        lib.elem self.packages.${pkgs.stdenv.hostPlatform.system}.default
          (home {
            enable = true;
          }).home.packages;
      expected = true;
    };
    testPackageOfNixos = {
      expr = lib.elem package (nixos everything).environment.systemPackages;
      expected = true;
    };
    # The unit keeps the program from being collected as garbage.
    testUnitNeedsPackage = {
      expr = map builtins.hasContext (
        lib.toList (home { enable = true; }).systemd.user.services.claude-cellar.Service.ExecStart
        ++ [ (nixos { enable = true; }).systemd.user.services.claude-cellar.serviceConfig.ExecStart ]
      );
      expected = [
        true
        true
      ];
    };

    testNixosHasFuse = {
      expr = (nixos { enable = true; }).programs.fuse.enable;
      expected = true;
    };
    testNixosIsObeyedOnFuse = {
      expr =
        (machine [
          {
            services.claude-cellar.enable = true;
            programs.fuse.enable = false;
          }
        ]).programs.fuse.enable;
      expected = false;
    };
    testHomeManagerNeedsFuse = {
      expr =
        map
          (
            fuse:
            let
              config = machine [
                home-manager.nixosModules.home-manager
                {
                  programs.fuse.enable = fuse;
                  users.users.alice.isNormalUser = true;
                  home-manager = {
                    useGlobalPkgs = true;
                    users.alice = {
                      imports = [ self.homeManagerModules.default ];
                      home.stateVersion = "26.05";
                      services.claude-cellar.enable = true;
                    };
                  };
                }
              ];
            in
            lib.any (
              assertion: !assertion.assertion && lib.hasInfix "programs.fuse.enable" assertion.message
            ) config.home-manager.users.alice.assertions
          )
          [
            true
            false
          ];
      expected = [
        false
        true
      ];
    };

    # Claude Code's settings are declared: the hooks are among them, and nothing is edited.
    testAgentfsDeclaresHooks = {
      expr =
        let
          evaluated = homeOf {
            programs.claude-code = {
              enable = true;
              package = null;
            };
            programs.agentfs = {
              inherit package;
              enable = true;
              claudeCodeHooks = true;
            };
          };
          settings = lib.head evaluated.options.programs.claude-code.settings.definitions;
          commands = lib.mapAttrs (
            _: lib.concatMap (group: map (hook: hook.command) group.hooks)
          ) settings.hooks;
        in
        {
          commands = lib.unique (lib.concatLists (lib.attrValues commands));
          events = lib.attrNames commands;
          activation = evaluated.config.home.activation ? agentfsHooks;
        };
      expected = {
        commands = [ "@claude-cellar@/bin/agentfs hook" ];
        events = lib.attrNames (lib.importJSON ../../src/bin/agentfs/hooks.json);
        activation = false;
      };
    };
    # They are not: the file that is there is edited.
    testAgentfsInstallsHooks = {
      expr =
        let
          activation =
            claudeCodeHooks:
            (homeOf {
              programs.agentfs = {
                inherit claudeCodeHooks package;
                enable = true;
              };
            }).config.home.activation;
        in
        [
          (lib.hasInfix "@claude-cellar@/bin/agentfs install-hooks --user" (activation true)
          .agentfsHooks.data)
          (activation false ? agentfsHooks)
          ((homeOf { }).config.home.activation ? agentfsHooks)
        ];
      expected = [
        true
        false
        false
      ];
    };
    testAgentfsPackage = {
      expr =
        map
          (
            enable:
            lib.elem package (homeOf { programs.agentfs = { inherit enable package; }; }).config.home.packages
          )
          [
            true
            false
          ];
      expected = [
        true
        false
      ];
    };

    testNothingIfDisabled = {
      expr = [
        ((home { }).systemd.user.services ? claude-cellar)
        ((nixos { }).systemd.user.services ? claude-cellar)
        (cellarVariables (home (everything // { enable = false; })).home.sessionVariables)
      ];
      expected = [
        false
        false
        { }
      ];
    };

    testTypingErrors = {
      expr =
        map (wrong: rejected homeUnit (everything // wrong) && rejected nixosUnit (everything // wrong))
          [
            { storeDir = "relative"; }
            { bundles = "yes"; }
            { trashDays = -1; }
            { maxFds = 0; }
            { logLevel = "loud"; }
          ];
      expected = lib.genList (_: true) 5;
    };
  };
in
assert lib.assertMsg (failures == [ ]) (
  lib.concatMapStrings (failure: ''
    ${failure.name}
    expected: ${lib.generators.toPretty { } failure.expected}
    is:       ${lib.generators.toPretty { } failure.result}
  '') failures
);
pkgs.runCommand "modules" { } "touch $out"
