{
  description = "Claude Code sessions, stored zstd-compressed behind a FUSE mount";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    # The module tests and the VM test need it; the package and the modules do not.
    home-manager = {
      url = "github:nix-community/home-manager/release-26.05";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      home-manager,
    }:
    let
      inherit (nixpkgs) lib;

      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forSystems = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      packageFor = pkgs: self.packages.${pkgs.stdenv.hostPlatform.system}.default;

      package =
        {
          lib,
          stdenv,
          rustPlatform,
          installShellFiles,
          versionCheckHook,
        }:
        let
          manifest = (lib.importTOML ./Cargo.toml).package;
          runsHere = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
        in
        rustPlatform.buildRustPackage {
          pname = manifest.name;
          inherit (manifest) version;

          # Not the documentation, nor the tests beside src: they mount, which no build may. The unit tests read
          # what Claude Code really gives its hooks.
          src = lib.fileset.toSource {
            root = ./.;
            fileset = lib.fileset.unions [
              ./Cargo.lock
              ./Cargo.toml
              ./LICENSE-APACHE
              ./LICENSE-MIT
              ./src
              ./tests/agentfs/hooks
            ];
          };
          cargoLock.lockFile = ./Cargo.lock;

          nativeBuildInputs = [ installShellFiles ];
          postInstall = ''
            install -Dm444 -t "$out/share/licenses/${manifest.name}" LICENSE-*
          ''
          + lib.optionalString runsHere ''
            for program in claude-cellar agentfs; do
              "$out/bin/$program" help --man > $program.1
              installManPage $program.1
              for shell in bash fish zsh; do
                "$out/bin/$program" completions $shell > completions.$shell
                installShellCompletion --cmd $program --$shell completions.$shell
              done
            done
          '';

          doInstallCheck = runsHere;
          nativeInstallCheckInputs = [ versionCheckHook ];

          meta = {
            inherit (manifest) description;
            license = with lib.licenses; [
              mit
              asl20
            ];
            platforms = systems;
            mainProgram = "claude-cellar";
          };
        };
    in
    {
      packages = forSystems (pkgs: rec {
        claude-cellar = pkgs.callPackage package { };
        default = claude-cellar;
      });

      apps = forSystems (pkgs: rec {
        claude-cellar = {
          type = "app";
          program = lib.getExe (packageFor pkgs);
          meta = { inherit ((packageFor pkgs).meta) description; };
        };
        agentfs = {
          type = "app";
          program = lib.getExe' (packageFor pkgs) "agentfs";
          meta.description = "Checkpoints of a working directory that know which prompt made each change";
        };
        default = claude-cellar;
      });

      overlays.default = final: _prev: {
        claude-cellar = final.callPackage package { };
      };

      nixosModules.default = lib.modules.importApply ./nixos-module { inherit self; };
      homeManagerModules.default = {
        imports = [
          (lib.modules.importApply ./home-manager-module { inherit self; })
          (lib.modules.importApply ./home-manager-module/agentfs.nix { inherit self; })
        ];
      };
      homeModules = self.homeManagerModules;

      devShells = forSystems (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ (packageFor pkgs) ];
          packages = with pkgs; [
            clippy
            deadnix
            fuse3
            nixfmt
            python3
            rust-analyzer
            rustfmt
            zstd
          ];
        };
      });

      formatter = forSystems (pkgs: pkgs.nixfmt-tree);

      checks = forSystems (
        pkgs:
        let
          test =
            file:
            import file {
              inherit
                home-manager
                lib
                nixpkgs
                pkgs
                self
                ;
            };
        in
        {
          package = packageFor pkgs;
          format =
            pkgs.runCommand "format"
              {
                nativeBuildInputs = with pkgs; [
                  deadnix
                  nixfmt
                ];
              }
              ''
                find ${self} -name '*.nix' -exec nixfmt --check {} +
                deadnix --fail ${self}
                touch $out
              '';
          modules = test ./tests/nixos/modules.nix;
          readme = test ./tests/nixos/readme.nix;
          home-manager = test ./tests/nixos/home-manager.nix;
          nixos = test ./tests/nixos/nixos.nix;
        }
      );
    };
}
