{
  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    claude-cellar.url = "git+file:///home/alice/src/claude-cellar";
  };

  outputs =
    { nixpkgs, claude-cellar, ... }:
    {
      nixosConfigurations.machine = nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [
          ./configuration.nix
          claude-cellar.nixosModules.default
          { services.claude-cellar.enable = true; }
        ];
      };
    };
}
