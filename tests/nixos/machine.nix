# What the machines of both VM tests have.
{ pkgs, ... }:
{
  virtualisation.memorySize = 2048;

  users.users.alice = {
    isNormalUser = true;
    uid = 1000;
    password = "alice";
  };

  environment = {
    etc.scenario.source = ../systemd;
    systemPackages = with pkgs; [
      git
      python3
      zstd
    ];
  };
}
